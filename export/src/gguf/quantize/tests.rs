use std::fs::{self, File};
use std::path::{Path, PathBuf};

use burnish_models::gguf::{GgmlType, Metadata};
use burnish_models::{Checkpoint, FloatType, Pretrained};

use super::*;
use crate::counted_file::CountedFile;
use crate::gguf::{GgufType, ImportanceMatrix, MeasuredInputs, Mixture, export_gguf};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../recipes/assets/quickstart/model");

fn options(mixture: Mixture) -> GgufOptions<'static> {
    GgufOptions { kind: GgufType::Quantized(mixture), ..GgufOptions::default() }
}

/// The model of the quickstart as a GGUF file.
fn exported(folder: &Path, name: &str, kind: GgufType) -> PathBuf {
    let path = folder.join(name);
    let model = Pretrained::open(MODEL).unwrap();
    export_gguf(&model, &*model.checkpoint, &path, &GgufOptions { kind, ..GgufOptions::default() }).unwrap();
    path
}

/// The type and the bytes of each tensor, by its name.
fn tensors(path: &Path) -> Vec<(String, GgmlType, Vec<u8>)> {
    let file = GgufFile::open(path).unwrap();
    let rows = |info: &TensorInfo| info.shape.iter().rev().skip(1).product::<usize>();
    let bytes = |info: &TensorInfo| file.with_rows(info, 0..rows(info), <[u8]>::to_vec).unwrap();
    let mut tensors: Vec<_> = file.tensors().map(|info| (info.name.clone(), info.kind, bytes(info))).collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    tensors
}

/// A GGUF file with tensors of f32.
fn write(path: &Path, metadata: &Metadata, tensors: &[(String, Vec<f32>)]) {
    let planned: Vec<_> = tensors
        .iter()
        .map(|(name, values)| PlannedTensor { name: name.clone(), shape: vec![1, values.len()], kind: GgmlType::F32 })
        .collect();
    let mut file = CountedFile::new(File::create(path).unwrap(), path);
    writer::write_header(&mut file, &writer::entries(metadata).unwrap(), &planned).unwrap();
    for (_, values) in tensors {
        file.put(&FloatType::F32.encode("w", values).unwrap()).unwrap();
        file.align(writer::ALIGNMENT).unwrap();
    }
    file.finish().unwrap();
}

/// An importance matrix for the matrices of a file, but not for those whose names contain `except`.
fn importance(folder: &Path, model: &Path, except: &str) -> PathBuf {
    let path = folder.join("imatrix.gguf");
    let file = GgufFile::open(model).unwrap();
    let matrices = file.tensors().filter(|info| info.shape.len() == 2 && !info.name.contains(except));
    let mut tensors = Vec::new();
    for info in matrices {
        let sums = (0..info.shape[1]).map(|column| if column % 3 == 0 { 400.0 } else { 2.0 }).collect();
        tensors.extend([(format!("{}.in_sum2", info.name), sums), (format!("{}.counts", info.name), vec![2.0])]);
    }
    let mut metadata = Metadata::default();
    metadata.insert("imatrix.datasets", ["data.txt"].into_iter().collect::<Value>());
    metadata.insert("imatrix.chunk_count", 7usize);
    write(&path, &metadata, &tensors);
    path
}

#[test]
fn a_file_and_the_folder_it_was_made_of_become_the_same() {
    let work = tempfile::tempdir().unwrap();
    let floats = exported(work.path(), "f32.gguf", GgufType::Float(FloatType::F32));
    for mixture in [Mixture::Q4KM, Mixture::Q5_1, Mixture::IQ4XS] {
        let direct = exported(work.path(), &format!("{mixture}-direct.gguf"), GgufType::Quantized(mixture));
        let path = work.path().join(format!("{mixture}.gguf"));
        let report = quantize_gguf(&GgufFile::open(&floats).unwrap(), &path, &options(mixture)).unwrap();
        assert_eq!(report.bytes, fs::metadata(&path).unwrap().len());
        assert_eq!(report.tensors.values().sum::<usize>(), tensors(&floats).len());
        assert!(tensors(&path) == tensors(&direct), "{mixture}");
        // What is quantised is close to what it was.
        let [found, expected] = [&path, &floats].map(|path| GgufFile::open(path).unwrap());
        for name in expected.names() {
            let [found, expected] = [&found, &expected].map(|file| file.read_f32(&name).unwrap());
            let square = |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>();
            let off = square(&mut found.iter().zip(&expected).map(|(a, b)| a - b));
            assert!(off <= 0.02 * square(&mut expected.iter().copied()), "{mixture}: {name}");
        }
    }
}

#[test]
fn metadata_is_copied_as_its_bytes_are() {
    let work = tempfile::tempdir().unwrap();
    let (source, target) = (exported(work.path(), "f16.gguf", GgufType::default()), work.path().join("q.gguf"));
    quantize_gguf(&GgufFile::open(&source).unwrap(), &target, &options(Mixture::Q6K)).unwrap();
    let [before, after] = [&source, &target].map(|path| GgufFile::open(path).unwrap());
    let of = |file: &GgufFile| {
        let mut entries: Vec<_> = file.entries().map(|(key, value)| (key.to_owned(), value.to_vec())).collect();
        entries.sort();
        entries.retain(|(key, _)| key != "general.file_type");
        entries
    };
    assert!(of(&before).len() > 20 && of(&before) == of(&after));
    assert_eq!(after.metadata().number("general.file_type"), Some(18));
    assert_eq!(after.metadata().number("general.quantization_version"), Some(2));
    let [before, after] = [&source, &target].map(|path| Pretrained::open(path).unwrap());
    assert_eq!(
        after.tokenizer.encode("Book a table", true).unwrap(),
        before.tokenizer.encode("Book a table", true).unwrap()
    );
    assert!(after.chat_template.is_some());
}

#[test]
fn what_has_few_bits_is_quantised_again_only_if_asked() {
    let work = tempfile::tempdir().unwrap();
    let source = exported(work.path(), "q8_0.gguf", GgufType::Quantized(Mixture::Q8_0));
    let target = work.path().join("q4_0.gguf");
    let file = GgufFile::open(&source).unwrap();
    let error = quantize_gguf(&file, &target, &options(Mixture::Q4_0)).unwrap_err();
    assert!(error.to_string().contains("q8_0.gguf: `") && error.to_string().contains("is in Q8_0 already"), "{error}");
    let model = Pretrained::open(&source).unwrap();
    let export = |requantize| {
        let options = GgufOptions { requantize, ..options(Mixture::Q4_0) };
        export_gguf(&model, &*model.checkpoint, &target, &options)
    };
    assert!(matches!(export(false).unwrap_err(), ExportError::Requantizes { .. }));
    assert!(!target.exists());
    let again = GgufOptions { requantize: true, ..options(Mixture::Q4_0) };
    quantize_gguf(&file, &target, &again).unwrap();
    let from_file = tensors(&target);
    fs::remove_file(&target).unwrap();
    export(true).unwrap();
    assert!(tensors(&target) == from_file);
    // Blocks that have their type already are copied.
    let same = work.path().join("same.gguf");
    quantize_gguf(&file, &same, &options(Mixture::Q8_0)).unwrap();
    assert!(tensors(&same) == tensors(&source));
    let error = quantize_gguf(&file, &same, &options(Mixture::Q8_0)).unwrap_err();
    assert!(matches!(error, ExportError::Exists { .. }));
    let onto_itself = GgufOptions { overwrite: true, ..options(Mixture::Q8_0) };
    assert!(matches!(quantize_gguf(&file, &source, &onto_itself).unwrap_err(), ExportError::Occupied { .. }));
}

#[test]
fn importance_changes_blocks_and_what_it_lacks_is_told() {
    let work = tempfile::tempdir().unwrap();
    let source = exported(work.path(), "f16.gguf", GgufType::default());
    let file = GgufFile::open(&source).unwrap();
    let matrix = ImportanceMatrix::open(&importance(work.path(), &source, "token_embd")).unwrap();
    let [plain, weighted] = ["plain.gguf", "weighted.gguf"].map(|name| work.path().join(name));
    let report = quantize_gguf(&file, &plain, &options(Mixture::Q4_1)).unwrap();
    assert!(!report.notes.iter().any(|note| note.contains("importance")), "{:?}", report.notes);
    let with = GgufOptions { importance: Some(&matrix), ..options(Mixture::Q4_1) };
    let report = quantize_gguf(&file, &weighted, &with).unwrap();
    let is_told = |note: &String| note.contains("imatrix.gguf has no importance of `token_embd.weight`: quantised as");
    // The embedding of other types has no use for it.
    let embedding = tensors(&plain).into_iter().find(|(name, ..)| name == "token_embd.weight").unwrap();
    assert_eq!(report.notes.iter().any(is_told), embedding.1 != GgmlType::Q8_0, "{:?}", report.notes);
    for (a, b) in tensors(&plain).iter().zip(&tensors(&weighted)) {
        assert_eq!(a.2 != b.2, a.1 == GgmlType::Q4_1, "{} in {:?}", a.0, a.1);
    }
    let written = GgufFile::open(&weighted).unwrap();
    assert_eq!(written.metadata().text("quantize.imatrix.file"), Some("imatrix.gguf"));
    assert_eq!(written.metadata().text("quantize.imatrix.dataset"), Some("data.txt"));
    assert_eq!(written.metadata().number("quantize.imatrix.chunks_count"), Some(7));
}

#[test]
fn files_that_are_no_importance_matrix_of_the_model_are_named() {
    let work = tempfile::tempdir().unwrap();
    let source = exported(work.path(), "f16.gguf", GgufType::default());
    let open = |path: &Path| ImportanceMatrix::open(path).unwrap_err().to_string();
    assert!(open(&source).ends_with("f16.gguf: is not an importance matrix: no tensor ends with `.in_sum2`"));
    let path = work.path().join("i.gguf");
    fs::write(&path, [7; 64]).unwrap();
    assert!(open(&path).contains("llama-imatrix --in-file OLD.dat -o NEW.gguf"));
    let name = "blk.0.ffn_up.weight";
    let of = |sums: Vec<f32>, counts: Option<f32>| {
        let counts = counts.map(|count| (format!("{name}.counts"), vec![count]));
        let tensors: Vec<_> = [(format!("{name}.in_sum2"), sums)].into_iter().chain(counts).collect();
        write(&path, &Metadata::default(), &tensors);
    };
    of(vec![1.0; 4], None);
    assert!(open(&path).ends_with("i.gguf: expected the tensor `blk.0.ffn_up.weight.counts` in F32"));
    for wrong in [-1.0, f32::NAN] {
        of(vec![1.0, wrong], Some(1.0));
        assert!(open(&path).contains("at column 1: expected a sum of squares"), "{}", open(&path));
    }
    of(vec![1.0; 4], Some(1.0));
    let quantize = || {
        let matrix = ImportanceMatrix::open(&path).unwrap();
        let with = GgufOptions { importance: Some(&matrix), ..options(Mixture::Q4_1) };
        quantize_gguf(&GgufFile::open(&source).unwrap(), &work.path().join("q.gguf"), &with).unwrap_err().to_string()
    };
    assert!(quantize().contains("has the importance of 4 columns, expected"), "{}", quantize());
    let other = [("other.weight.in_sum2".to_owned(), vec![1.0]), ("other.weight.counts".to_owned(), vec![1.0])];
    write(&path, &Metadata::default(), &other);
    assert!(quantize().contains("i.gguf has the importance of no tensor of this model"), "{}", quantize());
    assert!(open(work.path()).ends_with("expected a GGUF file of llama-imatrix, got a folder"));
}

/// Names and values.
type Tensors = Vec<(String, Vec<f32>)>;

#[test]
fn models_that_would_be_useless_are_refused_by_name() {
    let work = tempfile::tempdir().unwrap();
    let source = GgufFile::open(&exported(work.path(), "f16.gguf", GgufType::default())).unwrap();
    let (path, target) = (work.path().join("wrong.gguf"), work.path().join("q.gguf"));
    let refused = |change: &dyn Fn(&mut Metadata, &mut Tensors)| {
        let mut metadata = source.metadata().clone();
        // Tensors by their names in the file; their values don't matter.
        let mut tensors: Vec<_> = source.tensors().map(|info| (info.name.clone(), vec![1.0; 32])).collect();
        change(&mut metadata, &mut tensors);
        write(&path, &metadata, &tensors);
        let error = quantize_gguf(&GgufFile::open(&path).unwrap(), &target, &options(Mixture::Q4_0)).unwrap_err();
        assert!(!target.exists());
        error.to_string()
    };
    for count in [0usize, 1_000_000] {
        let error = refused(&|metadata, _| metadata.insert("llama.block_count", count));
        assert!(error.contains(&format!("`llama.block_count` is {count}, but the file has the tensors of")), "{error}");
    }
    let error = refused(&|metadata, _| metadata.insert(keys::TYPE, keys::ADAPTER));
    assert!(error.ends_with("wrong.gguf: expected a model, got a GGUF adapter"), "{error}");
    let error = refused(&|_, tensors| {
        let norm = tensors.iter_mut().find(|(name, _)| name == "output_norm.weight").unwrap();
        norm.1[3] = f32::NAN;
    });
    assert!(error.contains("`output_norm.weight` has the value NaN"), "{error}");
}

#[test]
fn lone_parts_and_unknown_architectures_are_refused() {
    let work = tempfile::tempdir().unwrap();
    let path = work.path().join("part.gguf");
    let mut metadata = Metadata::default();
    metadata.insert("general.architecture", "starcoder");
    let tensors = [("token_embd.weight".to_owned(), vec![0.0; 32])];
    write(&path, &metadata, &tensors);
    let quantize = |path: &Path| {
        let error = quantize_gguf(&GgufFile::open(path).unwrap(), &work.path().join("q.gguf"), &options(Mixture::Q4_0));
        error.unwrap_err().to_string()
    };
    assert!(quantize(&path).starts_with("unknown GGUF architecture `starcoder`"));
    let mut metadata = Metadata::default();
    metadata.insert("split.count", 2usize);
    let open = |name: &str, metadata: &Metadata| {
        let path = work.path().join(name);
        write(&path, metadata, &tensors);
        GgufFile::open(&path).unwrap_err().to_string()
    };
    assert!(open("part.gguf", &metadata).ends_with("its name must end as …-00001-of-00002.gguf"));
    assert!(
        open("m-00001-of-00002.gguf", &metadata)
            .ends_with("m-00002-of-00002.gguf: part 2 of the 2 parts of the model is missing")
    );
    metadata.insert("split.no", 1usize);
    let error = open("m-00002-of-00002.gguf", &metadata);
    assert!(
        error.contains("is part 2 of 2 of a model: open the first") && error.ends_with("m-00001-of-00002.gguf"),
        "{error}"
    );
    let error = open("m-00001-of-00002.gguf", &metadata);
    assert!(error.contains("its name must end as …-00002-of-00002.gguf"), "{error}");
    metadata.insert("split.no", 0usize);
    metadata.insert("split.tensors.count", 3usize);
    let mut second = Metadata::default();
    second.insert("split.no", 1usize);
    write(&work.path().join("m-00002-of-00002.gguf"), &second, &[("other".to_owned(), vec![0.0; 32])]);
    let error = open("m-00001-of-00002.gguf", &metadata);
    assert!(error.ends_with("`split.tensors.count` is 3, but its parts have 2"), "{error}");
}

#[test]
fn a_model_in_parts_is_the_model() {
    let work = tempfile::tempdir().unwrap();
    let whole = exported(work.path(), "whole.gguf", GgufType::default());
    let model = Pretrained::open(MODEL).unwrap();
    let in_parts = GgufOptions { shard_bytes: Some(100_000), ..GgufOptions::default() };
    let target = work.path().join("m.gguf");
    let report = export_gguf(&model, &*model.checkpoint, &target, &in_parts).unwrap();
    let files = GgufFile::open(&report.path).unwrap().files();
    assert!(!target.exists() && files.len() > 2 && report.path == files[0], "{files:?}");
    let name = files[1].file_name().unwrap().to_string_lossy();
    assert_eq!(name, format!("m-00002-of-{:05}.gguf", files.len()));
    assert_eq!(report.bytes, files.iter().map(|file| fs::metadata(file).unwrap().len()).sum::<u64>());
    assert_eq!(tensors(&report.path), tensors(&whole));
    let [parts, single] = [&report.path, &whole].map(|path| Pretrained::open(path).unwrap());
    assert_eq!(parts.config_json, single.config_json);
    for name in single.checkpoint.names() {
        assert_eq!(parts.checkpoint.read_f32(&name).unwrap(), single.checkpoint.read_f32(&name).unwrap());
    }
    // From parts into parts.
    let (one, many) = (work.path().join("q.gguf"), work.path().join("parts.gguf"));
    quantize_gguf(&GgufFile::open(&whole).unwrap(), &one, &options(Mixture::Q8_0)).unwrap();
    let in_parts = GgufOptions { shard_bytes: Some(50_000), ..options(Mixture::Q8_0) };
    let quantised = quantize_gguf(&GgufFile::open(&report.path).unwrap(), &many, &in_parts).unwrap();
    assert_eq!(tensors(&quantised.path), tensors(&one));
    let again = quantize_gguf(&GgufFile::open(&whole).unwrap(), &many, &in_parts).unwrap_err();
    assert!(matches!(again, ExportError::Exists { path } if path == quantised.path));
    let onto_itself = GgufOptions { overwrite: true, ..in_parts };
    let error = quantize_gguf(&GgufFile::open(&quantised.path).unwrap(), &many, &onto_itself).unwrap_err().to_string();
    assert!(error.contains("is an input of this export"), "{error}");
}

#[test]
fn a_measured_importance_matrix_is_read_again() {
    let work = tempfile::tempdir().unwrap();
    let model = Pretrained::open(MODEL).unwrap();
    let columns = model.config.intermediate_size;
    let layer = "model.layers.0.mlp.down_proj".to_owned();
    let mut measured = MeasuredInputs::default();
    for pass in [1.0f32, 2.0] {
        measured.add(6, vec![(layer.clone(), (0..columns).map(|column| pass * column as f32).collect())]);
    }
    let path = work.path().join("i.gguf");
    measured.write(&model, "rows.jsonl", 64, &path, false).unwrap();
    let read = ImportanceMatrix::open(&path).unwrap();
    let expected: Vec<f32> = (0..columns).map(|column| column as f32 * 3.0 / 12.0).collect();
    assert_eq!(read.of("blk.0.ffn_down.weight", columns).unwrap().unwrap(), expected);
    assert!(!read.has("blk.0.ffn_up.weight"));
    assert!(matches!(measured.write(&model, "rows.jsonl", 64, &path, false), Err(ExportError::Exists { .. })));
    let errors =
        [Pretrained::open(&path).err().unwrap().to_string(), burnish_lora::read_config(&path).unwrap_err().to_string()];
    assert!(errors.iter().all(|error| error.contains("i.gguf: this is an importance matrix")), "{errors:?}");
    measured.add(1, vec![(layer, vec![f32::INFINITY; columns])]);
    let error = measured.write(&model, "rows.jsonl", 64, &path, true).unwrap_err().to_string();
    assert!(error.contains("not finite in column 0"), "{error}");
    assert!(MeasuredInputs::default().write(&model, "", 1, &path, true).is_err());
}
