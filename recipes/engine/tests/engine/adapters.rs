//! Ten steps of adapters beyond plain LoRA against PEFT, from what `make_adapters.py` wrote.

use burn::backend::Flex;
use burn::tensor::DType;
use burnish_engine::{AdamWConfig, Adapter, BackendDevice, Batch, Device, Objective, StepItem, TrainedPart, Trainer};
use burnish_kernels::tolerance::Tolerance;
use burnish_lora::{Init, LoraConfig};
use burnish_models::{Checkpoint, LoadOptions};

use crate::golden::{Golden, ints};

impl Golden {
    fn batch(&self) -> Batch {
        let ints = |name: &str| -> Vec<i64> { ints(&self.values, name).into_iter().map(i64::from).collect() };
        let (ids, mask, labels) = (ints("input_ids"), ints("attention_mask"), ints("labels"));
        let (rows, length) = (2, ids.len() / 2);
        Batch {
            input_ids: ids.iter().map(|id| *id as u32).collect(),
            position_ids: (0..rows * length).map(|index| (index % length) as u32).collect(),
            segment_ids: mask.iter().map(|mask| *mask as u32).collect(),
            tokens: mask.iter().sum::<i64>() as usize,
            target_tokens: labels.iter().filter(|label| **label >= 0).count(),
            labels,
            rows,
            length,
            desirable: Vec::new(),
        }
    }

    fn trainer(&self, adapter: Adapter<'_>) -> Box<dyn Trainer> {
        let part = TrainedPart::Adapters { base: &self.weights, options: LoadOptions::default(), adapter, reference: None };
        let optimizer = AdamWConfig { max_grad_norm: 0.0, ..AdamWConfig::default() };
        BackendDevice::<Flex>::default().train(&self.config, part, optimizer).unwrap()
    }
}

fn losses(trainer: &mut dyn Trainer, batch: &Batch, steps: usize) -> Vec<f32> {
    let item = StepItem { batches: vec![batch.clone()], objective: Objective::Tokens, ..StepItem::default() };
    (0..steps).map(|_| trainer.step(&item, 1e-3).unwrap().loss as f32).collect()
}

#[test]
fn ten_losses_of_a_given_adapter_equal_peft() {
    for (base, case) in [("llama", "dora"), ("biased", "dora_biased"), ("llama", "modules"), ("llama3", "modules_tied")] {
        let golden = Golden::open(base, case);
        let path = golden.folder.join("start");
        let mut trainer = golden.trainer(Adapter::Folder { path: &path, dropout: 0.0 });
        let found = losses(&mut *trainer, &golden.batch(), 10);
        Tolerance::of(DType::F32).check(case, &found, &golden.values.read_f32("losses").unwrap()).unwrap();
    }
}

#[test]
fn runners_with_and_without_an_adapter_share_their_weights() {
    for (base, case) in [("llama", "dora"), ("llama3", "modules_tied")] {
        let golden = Golden::open(base, case);
        let path = golden.folder.join("start");
        let (device, batch) = (BackendDevice::<Flex>::default(), golden.batch());
        let run = |adapter| device.run(&golden.config, &golden.weights, LoadOptions::default(), adapter).unwrap();
        let mut plain = run(None);
        let before = plain.token_losses(&batch).unwrap();
        let mut adapted = plain.with_adapter(&path).unwrap();
        let found = adapted.token_losses(&batch).unwrap();
        assert_eq!(found, run(Some(&path)).token_losses(&batch).unwrap(), "{case}");
        assert_eq!(before, plain.token_losses(&batch).unwrap(), "{case}");
        let same_as_start = golden.values.read_f32("losses").unwrap()[0];
        let mean = found.iter().sum::<f64>() / found.len() as f64;
        Tolerance::of(DType::F32).check(case, &[mean as f32], &[same_as_start]).unwrap();
        assert_eq!(found.len(), batch.target_examples().len());
        assert!(adapted.with_adapter(&path).is_err());
    }
}

/// The signs of singular vectors differ, but AdamW steps alike from either.
#[test]
fn ten_losses_from_the_weights_own_vectors_equal_peft_and_resume_to_the_bit() {
    for (base, case, init, rslora) in [("llama", "pissa", Init::Pissa, false), ("mistral", "olora", Init::Olora, true)] {
        let golden = Golden::open(base, case);
        let config = LoraConfig { rank: 4, alpha: 8.0, init, rslora, ..LoraConfig::default() };
        let mut trainer = golden.trainer(Adapter::Fresh { config: &config, seed: 3 });
        let mut found = losses(&mut *trainer, &golden.batch(), 4);
        let folder = tempfile::tempdir().unwrap();
        trainer.save_adapter(&config, "base", folder.path()).unwrap();
        let mut resumed = golden.trainer(Adapter::Checkpoint { path: folder.path(), config: &config });
        resumed.restore_moments(4, &*trainer.moments()).unwrap();
        let rest = losses(&mut *trainer, &golden.batch(), 6);
        assert_eq!(rest, losses(&mut *resumed, &golden.batch(), 6), "{case}");
        let written = |trainer: &dyn Trainer| {
            let folder = tempfile::tempdir().unwrap();
            trainer.save_adapter(&config, "base", folder.path()).unwrap();
            std::fs::read(folder.path().join("adapter_model.safetensors")).unwrap()
        };
        assert_eq!(written(&*trainer), written(&*resumed), "{case}");
        found.extend(rest);
        Tolerance::of(DType::F32).check(case, &found, &golden.values.read_f32("losses").unwrap()).unwrap();
    }
}
