"""Which tests hold the 32 acceptance checks of the listening study (its specification, section 7).

Not covered: 31, Firefox and WebKit, which could not be installed: gap and offset of switching are
measured in Chromium alone. The sizes of 1 to 3 that the specification asks for are measured by
`python -m benchmarks.study_load`, here they run at a reduced one.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

CHECKS: dict[int, tuple[str, ...]] = {
    1: ("study_load::checks_1_and_3_every_vote_is_stored_once_by_two_server_processes",),
    2: ("study_load::check_2_nothing_acknowledged_is_lost_when_the_server_is_killed",),
    3: ("study_load::checks_1_and_3_every_vote_is_stored_once_by_two_server_processes",
        "study_store::check_3_no_pair_gets_more_than_its_target_from_many_at_once"),
    4: ("study_api::check_4_a_full_disk_answers_503_and_the_retry_is_stored_once",
        "study_store::check_4_a_database_that_cannot_be_written_is_unavailable_and_keeps_what_it_has",
        "listen_browser::a_vote_waits_for_the_network_and_is_stored_once"),
    5: ("study_api::check_5_statuses_of_votes_that_come_wrong",
        "study_store::check_5_the_same_key_is_the_same_vote_and_another_answer_is_refused",
        "study_store::check_5_what_is_not_yours_not_ready_or_too_late",
        "study_store::leases_that_run_out_go_to_others"),
    6: ("study_listening::check_6_replayed_reordered_and_duplicated_events_change_nothing",
        "study_listening::check_6_nobody_hears_more_than_the_time_that_passed",
        "study_store::check_6_less_than_the_minimum_is_refused_with_the_missing_seconds"),
    7: ("study_api::check_7_resume_on_another_browser",
        "listen_browser::a_reload_and_another_browser_go_on_with_the_same_trial"),
    8: ("study_store::check_8_votes_events_and_audit_reject_every_change",
        "study_store::check_8_tampering_is_located"),
    9: ("study_export::check_9_an_export_repeats_byte_for_byte",
        "study_export::check_9_csv_json_lines_and_parquet_hold_the_same_rows",
        "study_export::check_9_the_report_of_an_export_is_that_of_the_database",
        "study_export::check_9_two_processes_write_the_same_export_and_report"),
    10: ("study_store::check_10_the_migrated_schema_is_the_one_the_program_knows",
         "study_store::check_10_a_database_opens_again_unchanged"),
    11: ("study_api::check_11_clips_come_with_the_same_headers_and_nothing_that_names_them",
         "study_stimuli::check_11_all_files_have_one_length_and_a_plain_header"),
    12: ("study_api::check_12_tokens_of_clips_are_random_and_of_one_session",
         "study_timing::check_12_a_clip_of_somebody_else_takes_as_long_as_one_that_does_not_exist"),
    13: ("study_api::check_13_nothing_sent_to_a_listener_names_what_is_compared",
         "listen_browser::a_session_from_consent_to_reveal_names_no_system_before_its_end",
         "listen_browser::check_13_nothing_that_the_app_tells_every_visitor_names_a_system"),
    14: ("study_stimuli::check_14_loudness_peaks_and_silence_are_matched",),
    15: ("study_stimuli::check_15_synthetic_systems_are_at_chance_once_delivered",
         "study_stimuli::check_15_the_published_clips_shout_and_our_build_of_them_does_not"),
    16: ("study_assignment::check_16_sides_of_every_pair_are_balanced_to_one",
         "study_assignment::check_16_sides_of_every_person_are_balanced_to_two_at_every_moment",
         "study_assignment::check_16_position_says_nothing_about_the_system",
         "study_assignment::check_16_no_prompt_twice_running_and_no_clip_in_two_main_pairs",
         "study_assignment::check_16_every_pair_reaches_its_target_and_none_passes_it",
         "study_assignment::check_16_the_seed_reproduces_the_schedule_and_another_one_does_not"),
    17: ("listen_browser::check_17_both_clips_are_asked_for_in_an_order_that_tells_no_side",
         "listen_browser::on_a_slow_line_nothing_plays_before_both_clips_are_there",
         "study_timing::check_17_no_system_answers_later_than_the_other"),
    18: ("uploads::check_18_every_hostile_file_is_refused_within_a_second_and_300_megabytes",
         "uploads::check_18_what_is_sound_but_no_music_is_read_and_left_to_the_warnings",
         "uploads::a_video_without_sound_or_cut_or_too_long_is_named",
         "uploads::playlists_are_no_audio",
         "endpoints::check_18_visitors_with_the_same_file_do_not_take_it_from_each_other",
         "endpoints::check_18_a_name_is_only_a_name",
         "endpoints::check_18_a_file_beyond_the_limit_is_cut_off_and_leaves_nothing",
         "study_stimuli::check_18_a_clip_without_music_ends_the_build_and_is_named",
         "study_stimuli::check_18_a_clip_with_an_offset_is_mended_and_said"),
    19: ("uploads::check_19_every_accepted_format_is_read_whole",
         "uploads::check_19_an_mp3_with_a_picture_is_music_with_a_picture"),
    20: ("study_api::check_20_injections_are_text_and_nothing_else",
         "listen_browser::check_20_what_a_study_or_a_listener_writes_is_text_and_nothing_else",
         "study_export::no_export_says_who_or_where_somebody_is"),
    21: ("endpoints::check_21_no_path_reaches_a_file_of_the_server",
         "endpoints::check_21_a_part_of_a_clip_comes_without_the_headers_that_asked_for_it",
         "study_api::check_21_no_path_reaches_a_file"),
    22: ("endpoints::check_22_nothing_else_is_offered_and_raw_calls_change_nothing",),
    23: ("study_api::check_23_limits_answer_429_and_forged_addresses_do_not_evade_them",
         "study_store::check_23_rate_limits_hold_across_processes"),
    24: ("study_statistics::24_davidson_on_two_systems_is_its_closed_form",
         "study_statistics::24_bradley_terry_matches_a_published_table_and_logistic_regression",
         "study_statistics::24_cohens_kappa_by_hand",
         "study_statistics::24_krippendorffs_alpha_on_the_textbook_example_with_missing_data",
         "study_validity::24_brier_log_loss_and_auc_by_hand"),
    25: ("study_statistics::25_the_default_interval_covers_and_the_naive_one_does_not",
         "study_statistics::25_e_values_keep_their_error_at_any_look"),
    26: ("study_statistics::26_clickers_are_flagged_and_others_are_not",
         "study_statistics::26_effects_side_bias_and_ties_are_recovered"),
    27: ("study_validity::27_a_calibrated_ranker_stays_in_its_null_band_95_percent_of_the_time",
         "study_validity::27_an_inverted_ranker_is_wrong_where_the_ranker_was_right",
         "study_statistics::27_what_cannot_be_estimated_says_so",
         "study_report::27_no_votes_and_all_ties_make_a_report_that_claims_nothing"),
    28: ("study_statistics::28_the_table_of_votes_is_reproduced",
         "study_statistics::28_the_calculator_agrees_with_running_the_whole_analysis"),
    29: ("study_report::29_table_figure_methods_and_summary_agree",
         "study_report::29_the_latex_is_well_formed",
         "study_report::29_the_latex_compiles"),
    30: ("listen_browser::the_keyboard_alone_is_enough",
         "accessibility::every_screen_of_the_listeners_page",
         "listen_browser::a_graded_session_in_french_on_a_phone_in_the_dark",
         "listen_browser::on_a_slow_line_nothing_plays_before_both_clips_are_there",
         "listen_browser::a_device_without_sound_output_is_told_so",
         "listen_browser::sound_that_does_not_begin_is_said_and_waited_for",
         "listen_browser::what_plays_out_of_sight_is_not_heard_and_the_place_is_kept"),
    31: ("listen_browser::switching_keeps_the_place_and_leaves_no_gap",),
    32: ("cold_start::the_study_server_answers_soon_and_without_any_model",
         "study_export::check_32_from_two_folders_to_a_report_in_five_commands"),
}  # fmt: skip


def names_in(file: str) -> set[str]:
    """Names of the tests of a file, without `test_`."""
    tree = ast.parse((Path(__file__).parent / f"test_{file}.py").read_text(encoding="utf-8"))
    functions = (node.name for node in tree.body if isinstance(node, ast.FunctionDef))
    return {name.removeprefix("test_") for name in functions if name.startswith("test_")}


@pytest.mark.parametrize("check", range(1, 33))
def test_every_acceptance_check_is_held_by_tests_that_exist(check: int) -> None:
    assert CHECKS[check]
    for place in CHECKS[check]:
        file, _, name = place.partition("::")
        assert name in names_in(file), place
