"""What is in deploy/, and the walks through it in docs/: checked by the programs that read these files, and run."""
