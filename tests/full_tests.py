"""What `make test` leaves to `make full`, what it samples, and what may take long in it.

A key is a folder, a file, a function or one test, as pytest names them. A reason completes "this
test ...". Tests whose key is gone are noticed by `test_tiers.py`.
"""

from __future__ import annotations

from pathlib import Path

from full_seconds import TAKE_SECONDS

# Parameters that name a library which is installed for `make full` alone -> its name.
LIBRARIES = {
    "onnx": "ONNX Runtime",
    "onnxruntime": "ONNX Runtime",
    "onnx-reference": "onnx",
    "openvino": "OpenVINO",
}

BROWSER = "needs a browser"
ONNX = "needs onnx and ONNX Runtime"
PAGES = "runs the pages of the documentation"
PACKAGES = "builds packages or installs them"
PROCESSES = "starts processes, and takes seconds"
CLIENT = "needs another project's client"
PLOTS = "needs matplotlib"
SECONDS = "takes seconds"
SITE = "needs Sphinx"
# The files that make a kit or run one
KITS = """
    all_kits kit_by_diffusers kits kits_of_diffusers module_kits passport_command
    pipelines_of_kits port_in_c prompts_in_batches
""".split()
CONFORM = "tests/families/test_families_conform.py::test_our_families_conform"

FULL: dict[str, str] = {
    # -- other programs
    "tests/page": BROWSER,
    "tests/server/test_hostile_browser.py": BROWSER,
    "tests/site": SITE,
    "tests/docs/test_pages_run.py": PAGES,
    "tests/docs/test_blocks_run_twice.py": PAGES,
    "tests/docs/test_own_parts_pages.py": PACKAGES,
    "tests/docs/test_add_a_formula.py": PAGES,
    "tests/docs/test_examples_run.py": PAGES,
    "tests/plugins": PACKAGES,
    "tests/trace/test_dumps_of_torch.py::test_the_folder_of_transformers_debugger_is_read": SECONDS,
    "tests/trace/test_dumps_of_torch.py::test_printed_arrays_are_refused": SECONDS,
    "tests/test_package_built.py": PACKAGES,
    "tests/test_packaging.py": PACKAGES,
    "tests/test_other_processors.py": PROCESSES,
    "tests/mcp/test_sent_code.py": PROCESSES,
    "tests/course/test_further_formulas.py::test_the_small_emoji_of_the_page_on_memorised_images": (
        SECONDS
    ),
    **{
        f"tests/locate/test_own_parts.py::test_every_sampler_is_equal[rk45-{preset}-{selection}]": (
            "evaluates the network until a step is exact"
        )
        for preset in ("tiny", "sd3-tiny")
        for selection in ("states", "whole")
    },
    "tests/mcp/test_mcp_protocol.py::test_code_is_checked_against_the_identities": PROCESSES,
    "tests/mcp/test_mcp_protocol.py::test_code_is_checked_at_the_edges_on_request": PROCESSES,
    "tests/batch/test_batch_ray.py": "needs Ray",
    "tests/export": ONNX,
    "tests/families/test_krea2_family.py::test_traces_exports_and_cases": ONNX,
    "tests/families/test_flux2_family.py::test_traces_exports_and_cases": ONNX,
    "tests/families/test_z_image_family.py::test_traces_exports_and_cases": ONNX,
    "tests/families/test_qwen3.py::test_a_graph_that_was_kept_is_the_one_that_was_compiled": (
        "needs OpenVINO"
    ),
    "tests/families/test_flux2_conforms.py": ONNX,
    "tests/families/test_long_prompts_of_runs.py": SECONDS,
    "tests/families/test_asked.py": SECONDS,
    "tests/families/test_deep_text_encoders.py": SECONDS,
    "tests/families/test_longest_prompts.py::test_images_of_long_prompts_are_those_of_diffusers": (
        SECONDS
    ),
    "tests/families/test_flux3_conforms.py": ONNX,
    "tests/families/test_qwen_image_21_conforms.py": ONNX,
    "tests/families/test_z_image_conforms.py": ONNX,
    "tests/models/test_autoencoder_kinds.py::test_exported_graphs_hold_the_normalisation": ONNX,
    "tests/backends/test_compiled_backends.py": ONNX,
    "tests/backends/test_graph_networks.py": ONNX,
    "tests/backends/test_graph_operations.py": ONNX,
    "tests/faults/test_fault_hostile.py::test_sigterm_at_any_moment": ONNX,
    "tests/faults/test_fault_replaced.py::test_export_that_is_replaced": ONNX,
    "tests/server/test_serving_backend.py::test_a_served_image_is_numpys_image": PROCESSES,
    "tests/cli/test_commands_without_torch.py": PROCESSES,
    "tests/mcp/test_mcp_client.py": CLIENT,
    "tests/server/test_mcp_http.py": CLIENT,
    "tests/plots": PLOTS,
    "tests/server/test_a1111_routes.py": CLIENT,
    "tests/server/test_openai_routes.py": CLIENT,
    "tests/trace/test_trace_run.py::"
    "test_of_compiled_networks_only_inputs_and_outputs_are_recorded": ONNX,
    "tests/cases/test_cases_notice.py": ONNX,
    "tests/cases/test_half_precision.py": ONNX,
    "tests/cases/test_suite_files.py": ONNX,
    "tests/cases/test_flow_traces.py": ONNX,
    "tests/cases/test_trace_cases.py": ONNX,
    "tests/cases/test_traces_by_diffusers.py": ONNX,
    "tests/test_public_docstrings.py::test_the_examples_run[ldmref.export.folder]": ONNX,
    "tests/server/test_openai_page.py": CLIENT,
    "tests/cli/test_control_flags.py::test_a_controlnet_is_exported_with_the_model": ONNX,
    "tests/cli/test_cases_command.py::test_bad_input_is_one_line": ONNX,
    "tests/training/test_monitor.py::test_curves": PLOTS,
    "tests/locate/test_diff_command.py::test_a_plot_is_written_once": PLOTS,
    "tests/locate/test_wrong_axes.py::test_an_input_of_any_number_of_axes_has_a_row": SECONDS,
    "tests/locate/test_pipelines_against.py::test_the_command_plots_what_it_compares": PLOTS,
    "tests/atlas/test_naming.py::test_command_lists_and_draws": PLOTS,
    "tests/cases/test_cases_run.py": PROCESSES,
    "tests/backends/test_measure_backends.py": ONNX,
    "tests/bench": "measures the speed of programs",
    "tests/trace/test_trace_from_c.py": "needs a C compiler",
    "tests/trace/test_recording_mlx.py": "needs MLX",
    "tests/trace/test_recording_keras.py": "needs Keras",
    "tests/trace/test_recording_flax.py": "needs Flax",
    **{
        f"{CONFORM}[{check}-{family}]": ONNX
        for check in ("export", "cases")
        for family in ("sd3", "flux", "latent-diffusion")
    },
    "tests/testing/test_family_conformance.py::"
    "test_a_graph_that_computes_something_else_is_found": ONNX,
    "tests/families/test_plugin_families.py::test_golden_runs_that_it_declares": ONNX,
    "tests/testing/test_family_conformance.py::test_a_library_that_is_missing_is_named": ONNX,
    "tests/families/test_joint_controlnets.py::"
    "test_graphs_of_the_controlnet_and_of_the_transformer": ONNX,
    "tests/families/test_joint_controlnets.py::test_images_of_compiled_networks": ONNX,
    # -- pages
    "tests/course/test_capstone.py": PAGES,
    "tests/course/test_chapters.py": PAGES,
    "tests/course/test_further_pages.py::test_a_page_runs_twice": PAGES,
    "tests/training/test_chapter.py": PAGES,
    "tests/training/test_fine_tuning_page.py": PAGES,
    "tests/compat/test_compat_snippets.py": PAGES,
    "tests/trace/test_port_a_layer.py": PAGES,
    "tests/test_examples.py": PAGES,
    # -- seconds each
    "tests/check/test_seeds.py::test_the_command_of_the_readme_holds_in_full": SECONDS,
    "tests/check/test_pytest_plugin.py": PROCESSES,
    "tests/check/test_causes.py::test_a_changed_result_is_named": SECONDS,
    "tests/check/test_causes.py::test_the_sign_of_each_argument_is_named": SECONDS,
    "tests/check/test_agreement.py::test_a_changed_result_is_refused": SECONDS,
    "tests/modes/test_modes.py::test_backends_draw_the_same_image": SECONDS,
    "tests/modes/test_invert_interpolate.py::test_an_image_comes_back_from_its_noise": SECONDS,
    "tests/io/test_prompt_notes.py::test_no_name_is_warned_about": SECONDS,
    "tests/modes/test_shared_by_threads.py::test_each_thread_has_another_backend": SECONDS,
    "tests/samplers/test_plugins.py::test_a_damaged_list_of_entry_points_hurts_nobody_else": (
        PROCESSES
    ),
    "tests/training/test_diffusion.py::"
    "test_the_recipe_of_a_flow_resumes_bit_for_bit_and_its_model_samples_on_the_flow": SECONDS,
    "tests/families/test_lora_of_transformers.py::"
    "test_a_fine_tuning_is_resumed_and_read_by_diffusers": SECONDS,
    "tests/families/test_lora_of_transformers.py::"
    "test_a_whole_transformer_is_trained_and_resumed_bit_for_bit": SECONDS,
    "tests/training/test_first_stages.py": SECONDS,
    "tests/training/test_resume.py": SECONDS,
    "tests/training/test_mixture_recipe.py": SECONDS,
    **{
        f"{CONFORM}[{check}-{family}]": SECONDS
        for check in ("backends", "flops", "traces", "wrong layer")
        for family in ("sd3", "flux", "latent-diffusion")
    },
    **{
        f"{CONFORM}[{check}-latent-diffusion]": SECONDS
        for check in ("batch", "estimate", "modes", "training", "single files")
    },
    **{f"{CONFORM}[{check}-sd3]": SECONDS for check in ("estimate", "training")},
    f"{CONFORM}[estimate-flux]": SECONDS,
    "tests/testing/test_family_conformance.py::"
    "test_a_wrong_layer_that_is_not_named_is_found": SECONDS,
    "tests/testing/test_family_conformance.py::test_a_wrong_number_of_operations_is_found": SECONDS,
    "tests/testing/test_family_conformance.py::test_all_problems_are_listed_at_once": SECONDS,
    # -- processes
    "tests/cli/test_train.py": PROCESSES,
    "tests/datasets/test_dataset_plugins.py": PROCESSES,
    "tests/faults/test_fault_server.py": PROCESSES,
    "tests/batch/test_batch_kills.py": PROCESSES,
    "tests/batch/test_batch_process.py": PROCESSES,
    "tests/cli/test_streams.py": PROCESSES,
    "tests/cli/test_process.py": PROCESSES,
    "tests/faults/test_fault_long.py": PROCESSES,
    "tests/faults/test_fault_processes.py": PROCESSES,
    "tests/server/test_load_process.py": PROCESSES,
    "tests/server/test_serve_command.py": PROCESSES,
    "tests/training/test_distributed.py": PROCESSES,
    "tests/training/test_kills.py": PROCESSES,
}

FULL |= dict.fromkeys(TAKE_SECONDS, SECONDS)
FULL |= {f"tests/passport/test_{name}.py": SECONDS for name in KITS}

# Files of tests/locate with tables whose rows take milliseconds.
QUICK_TABLES = (
    "added_noise_rows", "changed_complex_products", "faint_masks", "findings_of_diffs",
    "gradients_of_layers", "judging", "layouts_of_arrays", "module_copies", "module_originals",
    "module_repeats", "module_results", "names_of_layers", "networks_of_calls", "numbered_inputs",
    "originals", "own_runs", "padding", "passes_and_parts", "pipeline_judges",
    "precision_of_ports", "prepared_images", "recorded_arguments", "reports_of_diffs",
    "rows_of_diffs", "selected_and_settings", "selected_states", "table_of_faults",
    *(x.stem.removeprefix("test_") for x in Path(__file__).parent.glob("locate/*_numbers.py")),
    *(x.stem.removeprefix("test_") for x in Path(__file__).parent.glob("locate/*_faults_of_*.py")),
)  # fmt: skip

# Sweeps -> how many tests of a function `make test` runs; a folder or file stands for each function
# in it. These are combinations of the same rules; tables of different cases run as a whole.
SAMPLED: dict[str, int] = {
    "tests/a1111/test_a1111_doors.py::test_both_doors_have_the_levels_of_a_named_scheduler": 60,
    "tests/a1111/test_a1111_levels.py::test_levels_are_those_of_a1111": 60,
    "tests/atlas/test_exact_lists.py::"
    "test_a_list_of_which_one_number_is_wrong_is_not_that_of_the_row": 12,
    "tests/samplers/test_arguments.py::test_samplers_stay_in_the_library_and_dtype": 90,
    "tests/samplers/test_other_programs.py::test_timesteps_and_sigmas_of_diffusers": 60,
    "tests/samplers/test_few_steps.py::test_no_sampler_is_far_worse_than_euler": 6,
    "tests/samplers/test_few_steps.py::"
    "test_methods_that_lower_their_orders_are_no_worse_than_euler": 5,
    "tests/cli/test_replay_a1111.py::test_every_pair_has_the_levels_of_a1111": 60,
    "tests/backends": 16,
    "tests/backends/test_bounds.py::test_bounds_hold_on_ten_thousand_random_inputs": 60,
    "tests/batch": 3,
    "tests/cases/test_traces_by_diffusers.py": 3,
    "tests/check/test_agreement.py::test_a_changed_result_is_refused": 5,
    "tests/check/test_failures.py::test_the_part_that_is_wrong_is_named": 15,
    "tests/check/test_hard.py::test_a_naive_answer_passes_without_and_fails_with": 6,
    "tests/cli/test_streams.py::test_streams_that_do_not_work": 16,
    "tests/compat": 4,
    "tests/course/test_capstone.py::test_the_help_names_a_mistake": 16,
    "tests/course/test_mistakes.py::test_a_naive_answer_is_found_by_the_printed_hard_command": 5,
    "tests/explore": 3,
    "tests/families/test_asked.py": 6,
    "tests/families/test_flux3.py": 3,
    "tests/families/test_given_against.py": 4,
    "tests/families/test_joint_controlnets.py": 2,
    "tests/families/test_joint_controlnets.py::test_a_live_pipeline_has_no_fault": 4,
    "tests/families/test_krea2_recording.py": 5,
    "tests/families/test_long_prompts_of_runs.py": 4,
    "tests/families/test_longest_prompts.py": 5,
    "tests/families/test_masks_of_batches.py": 6,
    "tests/families/test_more_recorded.py": 4,
    "tests/io/test_transformer_lora.py::test_a_lora_of_another_family_is_refused": 4,
    "tests/locate": 6,
    "tests/locate/test_causes_of_blocks.py": 2,
    "tests/locate/test_changed_arrays.py": 3,
    "tests/locate/test_every_layer_alone.py": 3,
    "tests/locate/test_followed_runs.py::test_a_changed_array_is_seen_at_its_place": 3,
    "tests/locate/test_formats_of_runs.py": 2,
    "tests/locate/test_inputs_not_recorded.py": 3,
    "tests/locate/test_missing_arrays.py": 3,
    "tests/locate/test_one_image.py": 3,
    "tests/locate/test_preflight.py::test_traces_that_cannot_be_compared_are_refused": 60,
    "tests/locate/test_other_names.py": 3,
    "tests/locate/test_own_parts.py": 6,
    "tests/locate/test_own_parts.py::test_every_guidance_is_equal": 30,
    "tests/locate/test_pipelines_against.py": 1,
    "tests/locate/test_changed_pipelines.py": 5,
    "tests/locate/test_twenty_faults.py": 10,
    "tests/locate/test_right_runs.py": 60,
    "tests/locate/test_recorded_levels.py": 21,
    "tests/locate/test_transformer_faults.py": 3,
    "tests/locate/test_unknown_networks.py": 6,
    "tests/locate/test_without_a_manifest.py": 3,
    **{f"tests/locate/test_{name}.py": 60 for name in QUICK_TABLES},
    "tests/models/test_hostile_configs.py": 40,
    "tests/models/test_public_arrays.py": 12,
    "tests/modes/test_every_option.py::test_a_path_that_changes_nothing_is_said_to": 20,
    "tests/modes/test_every_option.py::test_every_parameter_acts_or_is_named_or_is_refused": 12,
    "tests/math/test_forward.py": 12,
    "tests/math/test_predictors.py::test_predictors_equal_their_definitions": 9,
    "tests/math/test_sde.py": 9,
    "tests/modes/test_batches.py": 6,
    "tests/parity": 6,
    "tests/passport/test_kits_of_diffusers.py": 4,
    "tests/passport/test_module_kits.py": 4,
    "tests/passport/test_pipelines_of_kits.py": 3,
    "tests/passport/test_pipelines_of_kits.py::test_prompts_one_after_the_other_are_right": 2,
    "tests/trace": 6,
    "tests/trace/test_left_out.py": 3,
    "tests/training": 3,
}

# Functions with many tests -> how many of them `make test` runs; `make rest` runs the others. They
# are as many as take half a second, and at least one: `python scripts/sum_durations.py FILE --few`
# writes the list from the durations of a run.
FEW: dict[str, int] = {
    name: int(number)
    for line in Path(__file__).with_name("few_tests.txt").read_text("utf-8").splitlines()
    for name, number in [line.split()]
}

# Parameters of a test, by fixture, with which only `make full` runs it. NumPy, the definition, is
# tested in both types, and torch in float32, the type in which networks run.
COMBINATIONS: tuple[dict[str, str], ...] = (
    {"library": "array_api_strict"},
    {"library": "torch", "dtype": "float64"},
    {"ops": "torch", "dtype": "float64"},
)

# Tests of `make test` that may take more than five seconds of processor time -> why.
LONG: dict[str, str] = {
    **{
        f"{CONFORM}[{check}-{family}]": "runs each kind of model in diffusers"
        for check in ("live pipeline", "pipeline images", "original")
        for family in ("sd3", "flux", "latent-diffusion")
    },
    "tests/test_house.py": "reads every file of the package",
    "tests/check/test_identities.py::test_identities_hold": "checks every identity in a library",
    "tests/backends/test_conformance.py::test_numpy_conforms": "every operation in a type",
    "tests/backends/test_conformance.py::test_torch_conforms": "every operation in a type",
}
