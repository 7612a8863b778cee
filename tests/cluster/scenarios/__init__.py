"""What clients notice when the nodes of a cluster interleave as badly as they can.

Whole nodes on a real Redis in one process (`stage`), stopped, killed and held up at exact points. In brackets: tests
elsewhere that show it on real processes (tests/cluster), or on stores alone (tests/storage).

 1. a message for an offline session is stored, and the node dies
      test_node_dies_before_it_hears_that_the_message_is_stored
 2. it is stored, and the node dies before it tells the owner
      test_node_dies_before_it_rings
 3. word of one message is lost, that of the next comes twice
      test_doorbell_lost_and_the_next_one_doubled
 4. the session moves while word goes to its old owner
      test_session_moves_while_the_doorbell_goes_to_its_old_node
 5. a QoS 2 publish is half stored, and the node dies
      test_node_dies_with_half_of_the_receivers_served
      test_node_dies_with_all_receivers_served
 6. the same, but the node was only stopped
      test_node_is_stopped_and_wakes_when_all_is_over
 7. something new is sent before what was half stored
      test_something_new_is_sent_before_the_old_one_is_repeated
 8. a late release meets a new message with its packet id
      test_release_comes_late_and_the_packet_id_is_in_use_again
 9. the owner dies between PUBREC and the store
      test_owner_dies_while_pubrec_is_on_its_way_to_the_store
      [test_g2_owner_killed_between_pubrec_and_pubrel]
10. the owner dies between PUBREL and PUBCOMP
      test_owner_dies_before_pubcomp_is_stored
11. one client id at two nodes at once, then at a third
      test_two_connect_at_once_and_a_third_later
12. an owner is stopped while its client moves, and wakes
      test_old_owner_is_stopped_and_wakes
      test_old_owner_retains_nothing_any_more
      [test_an_old_owner_that_wakes_up]
13. a subscription while another node joins
      test_subscribe_while_another_node_joins
14. a subscription while another node is stopped
      test_subscribe_while_another_node_is_stopped
      [test_g5_a_frozen_node_that_wakes_up]
15. a subscription while a retained publish is on its way
      test_subscribe_while_a_retained_publish_is_on_its_way
      test_qos_0_behind_a_retained_publish_that_is_on_its_way
16. a subscription after a retained publish nobody heard of
      test_subscribe_when_word_of_a_retained_message_was_lost
17. a node with wills dies, then the one that cleans up
      test_node_with_wills_dies_and_then_the_one_that_cleans_up
      test_node_dies_while_it_publishes_a_will
      test_node_dies_when_it_has_published_a_will
      [test_the_owner_and_then_its_reaper_are_killed]
18. a will falls due as its client comes back
      test_will_falls_due_as_its_client_comes_back
      [TestWills]
      test_client_says_goodbye_and_is_faster_at_another_node
19. Redis is started again without its last second
      test_deliveries_go_on_when_redis_has_forgotten_some
      test_session_goes_on_when_redis_has_forgotten_its_connection
      test_session_is_taken_over_while_redis_is_started_again
      [test_restarted_without_its_last_second]
20. 300 calls under way, the connection is cut anywhere
      [test_300_calls_cut_anywhere]

And what only MQTT 5.0 has:

    a delivery with all that belongs to it goes to another node, and to a third
      test_what_travels_with_a_delivery
    a retained message expires as a newer one takes its place
      test_retained_message_expires_as_another_takes_its_place
    the node of a client whose will is delayed dies
      test_delayed_will_outlives_its_node
"""
