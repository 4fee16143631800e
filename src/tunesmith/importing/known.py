"""Keys that need no translation, and keys that cannot have one yet, with the reason that the user is told."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

Table = tuple[tuple[str, str], ...]  # (why; patterns of whole keys, with * and without the numbers of lists)

NEEDLESS: Table = (
    (
        "examples are always packed, without padding, and never see each other",
        """sample_packing* eval_sample_packing packing packing_strategy eval_packing neat_packing padding_free
        pad_to_sequence_len pad_to_multiple_of group_by_length batching_strategy batch_flattening multipack*
        max_packed_sequence_len streaming_multipack* pretrain_multipack_* pretraining_sample_concatenation""",
    ),
    (
        "attention over packed examples is built in",
        """flash_attn* flash_attention sdp_* xformers_attention flex_attention flex_attn_* attn_implementation
        s2_attention flash_optimum *_hybrid_attn_impl fused_attn_kernel""",
    ),
    (
        "logits are computed in chunks, at learned positions only",
        """liger_* use_liger_kernel enable_liger_kernel use_kernels use_*_kernel use_*_kernels kernel_config.*
        cut_cross_entropy chunked_cross_entropy* lora_mlp_kernel lora_qkv_kernel lora_o_kernel lora_embedding_kernel
        unsloth_* use_unsloth* experts_implementation torch_compile_* llama4_linearized_experts""",
    ),
    (
        "data is read and tokenised at the start of each run; the audit lists doubles",
        """dataset_prepared_path dataset_processes dataset_num_proc preprocessing_* overwrite_cache dataloader_*
        shuffle_merged_datasets shuffle_dataset skip_prepare_dataset remove_unused_columns streaming buffer_size
        dataset_kwargs.* tokenized_path num_workers dataset_keep_in_memory data_shared_file_system
        dataset_exact_deduplication""",
    ),
    (
        "every update is shown while it runs and written to metrics.jsonl",
        """logging_* log_level log_* plot_loss disable_tqdm include_tokens_per_second include_num_input_tokens_seen
        debug do_train overwrite_output_dir run_name strict""",
    ),
    (
        "the dev loss is taken before and after, and base and tuned are compared on held-out cases at the end",
        """eval_steps eval_strategy evaluation_strategy evals_per_epoch eval_batch_size per_device_eval_batch_size
        do_eval eval_on_start eval_accumulation_steps eval_max_new_tokens eval_table_* load_best_model_at_end
        metric_for_best_model greater_is_better early_stopping_patience do_bench_eval do_causal_lm_eval
        eval_causal_lm_metrics compute_accuracy eval_on_each_dataset eval_sequence_len""",
    ),
    (
        "the two newest checkpoints are kept, complete or absent, as safetensors",
        "save_strategy save_total_limit save_only_model save_safetensors save_first_step",
    ),
    (
        "the end of the reply is always learned, as the chat template writes it",
        "train_on_eos train_on_eot eot_tokens datasets.train_on_eos datasets.train_on_eot",
    ),
    (
        "the model's own configuration says it",
        """model_type tokenizer_type tokenizer_config processor_type is_*_derived_model model_class base_model_config
        resize_token_embeddings_to_32x use_fast_tokenizer tokenizer_use_fast lora_task_type use_cache infer_backend
        sample_backend tokenizer_use_mistral_common task_type""",
    ),
    ("nothing is padded", "special_tokens.pad_token pad_token ignore_pad_token_for_loss tokens.pad_token"),
    (
        "speed and memory only; never changes the gradient",
        """tf32 ddp_* ray_* use_ray local_rank low_cpu_mem_usage torch_empty_cache_steps gc_steps
        average_tokens_across_devices experimental_skip_move_to_device use_cpu enable_cpu_affinity
        activation_offloading""",
    ),
    (
        "a gradient that is not finite stops the run before a weight changes, and names the examples",
        "loss_watchdog_*",
    ),
    (
        "a training run uploads nothing: afterwards, tunesmith export RUN --to merged --push owner/name",
        "hub_* push_to_hub hf_use_auth_token push_dataset_to_hub use_auth_token hf_hub_token tags",
    ),
    (
        "a run leaves adapter/ and merged/ behind; tunesmith export writes other formats",
        "export_* peft_config.export_* peft_config.infer_dtype merge_lora save_merged*",
    ),
    (
        "which part is learned is known by construction, from the model's own chat template",
        "completion_only_loss assistant_only_loss",
    ),
    (
        "files are told by their ending, conversations by their columns",
        """datasets.ds_type datasets.conversation datasets.shards datasets.preprocess_shards datasets.revision
        datasets.trust_remote_code test_datasets.ds_type test_datasets.type""",
    ),
)
ABSENT: Table = (
    (
        "adapt.base_bits holds layers as NF4 or in 8 bits, in blocks of 64 values; nothing else of it can be set",
        """quantization_* bnb_4bit_* bnb_config_kwargs.* use_bnb_nested_quant
        double_quantization quant_config quant_config.* gptq* quantize_* model_quantization_config*""",
    ),
    (
        "a run uses one process and at most one GPU",
        """fsdp* deepspeed* dist_config.* dp_*_size tensor_parallel_size context_parallel_* sequence_parallel_* cp_*
        num_processes num_machines distributed_type expert_parallel_* init_config.* gpu_memory_limit device_map
        max_memory* accelerator_config.*""",
    ),
    (
        "train.checkpointing runs layers again in the backward, by itself where a run fits only so (auto)",
        "gradient_checkpointing gradient_checkpointing_kwargs.* disable_gradient_checkpointing use_reentrant_gc",
    ),
    (
        "not a tracker that is here, or a setting of one: those are named by their own environment variables",
        """wandb_* mlflow_* comet_* swanlab_* trackio_* otel_* report_to use_wandb use_mlflow* use_comet use_swanlab
        use_tensorboard use_trackio use_otel_metrics""",
    ),
    (
        "not translated: say regularise.neftune or objective.smoothing by hand",
        "neftune_noise_alpha noisy_embedding_alpha label_smoothing label_smoothing_factor use_dft_loss",
    ),
    (
        "not translated: of the ways to adapt, LoRA (adapt.rslora, adapt.dora), all weights and some of them are here",
        """use_dora peft_use_dora peft.use_dora loraplus_* pissa_* use_galore galore_* use_badam badam_* use_apollo
        apollo_* oft_* use_llama_pro create_new_adapter relora* loftq* peft.loftq* peft_init_lora_weights peft_layers_*
        lora_fan_in_fan_out lora_layers_to_transform lora_target_parameters lora_bias bias lisa_*""",
    ),
    (
        "heads and embeddings stay as they are under LoRA",
        "lora_modules_to_save additional_target modules_to_save",
    ),
    (
        "a run starts from the base, not from an adapter: merge that one first and name its folder as model",
        "lora_model_dir adapter_name_or_path peft_config.adapter_name_or_path",
    ),
    (
        "what trains is LoRA, all weights, or the last layers (adapt.method: last_k)",
        """unfrozen_parameters freeze_trainable_modules freeze_extra_modules peft_config.freeze_* freeze_vision_tower
        freeze_multi_modal_projector freeze_language_model freeze_mm_modules""",
    ),
    ("code that comes with a model is never run; only transformers' own architectures are", "trust_remote_code*"),
    (
        "the tokenizer is used as it comes with the model; `tunesmith models resize` makes one with more",
        """special_tokens.* tokens tokens.* tokenizer_legacy added_tokens_overrides* add_tokens add_special_tokens
        new_special_tokens eos_token resize_vocab new_token_*""",
    ),
    (
        "model and tokenizer come together, at the hub's newest revision: give a folder as model for another",
        "tokenizer_name tokenizer_name_or_path tokenizer_config_path cache_dir model_revision revision_of_model",
    ),
    ("a longer context is adapt.context: tokens, and the method", "rope_* rope_scaling.*"),
    (
        "the model is used with its own configuration",
        "overrides_of_model_* model_init_kwargs* model_config* cls_model_config",
    ),
    (
        "all rows of all files are used; a `weight` column of the file is read",
        """max_samples curriculum_sampling datasets.weight datasets.sample_ratio interleave_probs mix_strategy
        dataset_mixer.*""",
    ),
    ("there are no plugins here", "plugins *_plugin use_scattermoe moe_* router_aux_loss_coef use_kt kt_*"),
    ("replies only are learned, each turn of the assistant once", "train_on_prompt mask_history train_on_inputs"),
    (
        "tools and reasoning are written as the model's own chat template has them",
        """tool_format enable_thinking preserve_thinking chat_template_kwargs.* datasets.field_thinking
        datasets.template_thinking_key datasets.drop_system_message""",
    ),
    (
        "rows go into the model's chat template; a wording of your own is a template in data.columns.prompt",
        "datasets.type.format datasets.type.no_input_format datasets.type.system_format",
    ),
    (
        "AdamW with a constant, a line or half a cosine is what is here",
        "optim_config.* optim_args* lr_scheduler_kwargs.* eta_min lr_quadratic_warmup jagged_restart_*",
    ),
    ("texts only", "image_* video_* audio_* media_dir min_pixels max_pixels"),
    (
        "this technique is not here yet",
        "diffusion.* llmcompressor.* eaft_* use_eaft qat.* torchao_* fp8* torchdistx_path low_rank*",
    ),
)
# stems of keys that mean another kind of training: a supervised recipe made from such a file would do another job
OTHER_KINDS = {
    "rl": "preference tuning or reinforcement learning",
    "reward_model": "training a reward model",
    "process_reward_model": "training a reward model",
    "pref_loss": "preference tuning",
    "pref_beta": "preference tuning",
    "beta": "preference tuning",
    "max_prompt_length": "preference tuning",
    "num_generations": "reinforcement learning",
    "reward_funcs": "reinforcement learning",
    "reward_model_path": "reinforcement learning",
}


def reason(key: str, table: Table) -> str | None:
    """Why, by the first pattern that the whole key fits."""
    plain = re.sub(r"\[\d+\]", "", key)
    return next((why for why, patterns in table if any(fnmatchcase(plain, p) for p in patterns.split())), None)
