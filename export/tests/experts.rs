//! Adapters of experts in other formats, against PEFT: what is written is read again, and computes the same.
#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
mod model_folder;

use std::path::{Path, PathBuf};

use burn::backend::Flex;
use burn::tensor::DType;
use burnish_export::{
    GgufLoraOptions, GgufOptions, GgufType, HuggingFaceOptions, MlxAdapterOptions, export_gguf, export_gguf_lora,
    export_hugging_face, export_mlx_adapter,
};
use burnish_kernels::tolerance::Tolerance;
use burnish_lora::{HostAdapter, MergedCheckpoint, load_adapter};
use burnish_models::checkpoint::SafetensorsFolder;
use burnish_models::gguf::GgufFile;
use burnish_models::{Checkpoint, FloatType, LanguageModel, LoadOptions, ModelInput, Pretrained};

use model_folder::{fixture, model_folder};

/// The cases of `make_expert_adapters.py` that llama.cpp has, with the checkpoints of `make_parity.py` that they are for.
const CASES: [(&str, &str); 2] = [("qwen3moe-experts", "qwen3moe"), ("gpt-oss-experts", "gpt-oss")];

struct Case {
    model: Pretrained,
    adapter: PathBuf,
    golden: SafetensorsFolder,
}

impl Case {
    fn open((case, base): (&str, &str), work: &Path) -> Self {
        let folder = fixture("llama").join("../../experts").join(case);
        model_folder(base, &work.join(base), |_| ());
        Self {
            model: Pretrained::open(work.join(base)).unwrap(),
            adapter: folder.join("adapter"),
            golden: SafetensorsFolder::from_files(&[folder.join("golden.safetensors")]).unwrap(),
        }
    }

    fn ints(&self, name: &str) -> Vec<u32> {
        let bytes = self.golden.read_bytes(name).unwrap();
        bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()
    }

    fn check(&self, name: &str, model: &LanguageModel<Flex>, expected: &str) {
        let (ids, mask) = (self.ints("input_ids"), self.ints("attention_mask"));
        let length = ids.len() / 2;
        let positions: Vec<u32> = (0..ids.len()).map(|index| (index % length) as u32).collect();
        let input = ModelInput::packed(&ids, &positions, &mask, length, &Default::default());
        let logits: Vec<f32> = model.logits(model.hidden_states(&input, None)).into_data().to_vec().unwrap();
        let expected = self.golden.read_f32(expected).unwrap();
        let width = logits.len() / mask.len();
        let pick = |values: &[f32]| -> Vec<f32> {
            let rows = values.chunks_exact(width).zip(&mask).filter(|(_, mask)| **mask > 0);
            rows.flat_map(|(row, _)| row.to_vec()).collect()
        };
        Tolerance::of(DType::F32).check(name, &pick(&logits), &pick(&expected)).unwrap();
    }

    fn adapted(&self, adapter: &Path) -> LanguageModel<Flex> {
        let mut model = load(&self.model);
        load_adapter(&mut model, adapter, None, &Default::default()).unwrap();
        model
    }
}

fn load(model: &Pretrained) -> LanguageModel<Flex> {
    model.load(&Default::default(), LoadOptions::frozen(FloatType::F32)).unwrap()
}

#[test]
fn adapters_for_llama_cpp_and_mlx_have_the_factors_of_all_experts() {
    let work = tempfile::tempdir().unwrap();
    for names in CASES {
        let case = Case::open(names, work.path());
        let host = HostAdapter::of(&case.model, &case.adapter).unwrap();
        let gguf = work.path().join("adapter.gguf");
        let options = GgufLoraOptions { float: FloatType::F32, overwrite: true };
        export_gguf_lora(&case.model, &host, &gguf, &options).unwrap();
        case.check("LoRA GGUF", &case.adapted(&gguf), "adapter_logits");
        let file = GgufFile::open(&gguf).unwrap();
        let tensor = |name: &str| file.tensors().find(|tensor| tensor.name == name).unwrap().shape.clone();
        let is_qwen = names.1 == "qwen3moe";
        let [experts, inner] = if is_qwen { [8, 16] } else { [4, 48] };
        assert_eq!(tensor("blk.1.ffn_up_exps.weight.lora_a"), [experts, 3, 32]);
        assert_eq!(tensor("blk.1.ffn_up_exps.weight.lora_b"), [experts, inner, 3]);
        assert_eq!(tensor("blk.0.ffn_down_exps.weight.lora_a"), [experts, 3, inner]);
        let mlx = work.path().join(format!("{}-mlx", names.0));
        export_mlx_adapter(&case.model, &host, &mlx, &MlxAdapterOptions::default()).unwrap();
        case.check("MLX", &case.adapted(&mlx), "adapter_logits");
        let file = SafetensorsFolder::from_files(&[mlx.join("adapters.safetensors")]).unwrap();
        let module = if is_qwen { "switch_mlp" } else { "experts" };
        let shape = |end: &str| file.shape(&format!("model.layers.0.mlp.{module}.gate_proj.{end}")).unwrap();
        assert_eq!((shape("lora_a"), shape("lora_b")), (vec![experts, 3, 32], vec![experts, inner, 3]));
    }
}

#[test]
fn merged_experts_leave_in_every_format() {
    let work = tempfile::tempdir().unwrap();
    for names in CASES {
        let case = Case::open(names, work.path());
        let merged = MergedCheckpoint::of(&case.model, &case.adapter).unwrap();
        let gguf = work.path().join("merged.gguf");
        let options = GgufOptions { kind: GgufType::Float(FloatType::F32), overwrite: true, ..GgufOptions::default() };
        export_gguf(&case.model, &merged, &gguf, &options).unwrap();
        case.check("merged GGUF", &load(&Pretrained::open(&gguf).unwrap()), "merged_logits");
        let folder = work.path().join(format!("{}-merged", names.0));
        let options = HuggingFaceOptions { float: FloatType::F32, ..Default::default() };
        export_hugging_face(&case.model, &merged, &folder, &options).unwrap();
        case.check("merged folder", &load(&Pretrained::open(&folder).unwrap()), "merged_logits");
    }
}

/// The adapter has two ranks, and its layers without experts have no name there.
#[test]
fn what_a_format_can_not_hold_is_refused_with_the_way_out() {
    let work = tempfile::tempdir().unwrap();
    let case = Case::open(("qwen3moe-all", "qwen3moe-mixed"), work.path());
    let host = HostAdapter::of(&case.model, &case.adapter).unwrap();
    let mlx = work.path().join("mlx");
    let error = export_mlx_adapter(&case.model, &host, &mlx, &MlxAdapterOptions::default()).unwrap_err().to_string();
    assert!(error.contains("one rank for all layers") && error.contains("--format mlx writes"), "{error}");
}
