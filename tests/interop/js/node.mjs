// node node.mjs URL NAME VERSION: the conversation in Node; prints its result as JSON.
import mqtt from 'mqtt'
import { conversation } from './conversation.mjs'

const [url, name, version] = process.argv.slice(2)
console.log(JSON.stringify(await conversation(mqtt, url, name, Number(version))))
process.exit(0)
