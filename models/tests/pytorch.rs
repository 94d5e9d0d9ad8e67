//! Files that torch.save wrote (`make_pytorch.py`), and some that it would never write.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use burnish_models::checkpoint::{PytorchFiles, SafetensorsFolder, open_folder};
use burnish_models::{Checkpoint, FloatType};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

fn open(name: &str) -> burnish_models::Result<PytorchFiles> {
    PytorchFiles::open(&[fixtures().join("pytorch").join(name)])
}

/// All tensors of `found` have the shape, the type and the values of those of `expected`.
fn assert_equal(found: &dyn Checkpoint, expected: &dyn Checkpoint) {
    assert_eq!(found.names(), expected.names());
    for name in expected.names() {
        assert_eq!(found.shape(&name), expected.shape(&name), "{name}");
        assert_eq!(found.integer_dtype(&name), expected.integer_dtype(&name), "{name}");
        assert_eq!(found.float_type(&name), expected.float_type(&name), "{name}");
        assert_eq!(found.read_bytes(&name).unwrap(), expected.read_bytes(&name).unwrap(), "{name}");
        if found.integer_dtype(&name).is_some() {
            assert!(found.read_f32(&name).unwrap_err().to_string().contains(&name));
            continue;
        }
        assert_eq!(found.read_f32(&name).unwrap(), expected.read_f32(&name).unwrap(), "{name}");
        for dtype in FloatType::ALL {
            assert_eq!(found.read(&name, dtype).unwrap(), expected.read(&name, dtype).unwrap(), "{name} {dtype}");
        }
    }
}

#[test]
fn every_dtype_and_every_view_of_a_storage_is_read() {
    let expected = SafetensorsFolder::from_files(&[fixtures().join("pytorch/views.safetensors")]).unwrap();
    let found = open("views.bin").unwrap();
    assert_eq!(found.names().len(), 24);
    assert_equal(&found, &expected);
}

#[test]
fn a_sharded_model_equals_its_safetensors() {
    let folder = fixtures().join("pytorch/model");
    let found = open_folder(&folder).unwrap();
    assert_equal(&*found, &SafetensorsFolder::open(&fixtures().join("parity/biased")).unwrap());
    assert_eq!(found.files().len(), 2);
    assert!(found.file_of("model.norm.weight").unwrap().starts_with(&folder));
    let missing = found.read_f32("no.such.weight").unwrap_err().to_string();
    assert!(missing.contains("no.such.weight: missing"), "{missing}");
}

#[test]
fn state_dicts_among_other_things_are_found() {
    let (nested, other) = (open("nested.pt").unwrap(), open("protocol4.pt").unwrap());
    assert_eq!(nested.names(), ["bias", "weight"]);
    assert_equal(&nested, &other);
}

#[test]
fn other_files_are_refused_with_a_way_out() {
    let error = |name: &str| open(name).unwrap_err().to_string();
    let legacy = error("legacy.bin");
    assert!(legacy.contains("before PyTorch 1.6") && legacy.contains("weights_only=True"), "{legacy}");
    let module = error("module.pt");
    assert!(module.contains("`torch.nn.modules.linear.Linear`") && module.contains("module.pt"), "{module}");
    assert!(error("views.safetensors").contains("not a file of torch.save"));
    assert!(error("nowhere.bin").contains("nowhere.bin"));
}

/// A zip archive of stored entries.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    archive_of(entries, false)
}

/// The archive, with sizes and positions in 64 bits if it is `wide`, as in files of more than 4 GiB.
fn archive_of(entries: &[(&str, &[u8])], wide: bool) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    let four = |value: usize| if wide { [0xff; 4] } else { (value as u32).to_le_bytes() };
    let eight = |value: usize| (value as u64).to_le_bytes();
    for (name, data) in entries {
        let local = bytes.len();
        let sizes = [four(data.len()), four(data.len())].concat();
        let name_length = (name.len() as u16).to_le_bytes();
        bytes.extend([&b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0\0\0\0\0"[..], &sizes, &name_length, &[0, 0]].concat());
        bytes.extend([name.as_bytes(), data].concat());
        // Another field stands before that of the sizes.
        let sizes_64 = [eight(data.len()), eight(data.len()), eight(local)].concat();
        let extra = if wide { [&b"\x99\x99\x02\0ab\x01\0\x18\0"[..], &sizes_64].concat() } else { Vec::new() };
        let extra_length = (extra.len() as u16).to_le_bytes();
        directory.extend([&b"PK\x01\x02\x14\0\x14\0\0\0\0\0\0\0\0\0\0\0\0\0"[..], &sizes, &name_length].concat());
        directory.extend([&extra_length[..], &[0; 10], &four(local), name.as_bytes(), &extra].concat());
    }
    let start = bytes.len();
    bytes.extend(&directory);
    if wide {
        let (end, count) = (bytes.len(), eight(entries.len()));
        let sizes = [count, count, eight(directory.len()), eight(start)].concat();
        bytes.extend([&b"PK\x06\x06"[..], &eight(44), &[0; 12], &sizes].concat());
        bytes.extend([&b"PK\x06\x07\0\0\0\0"[..], &eight(end), &[1, 0, 0, 0]].concat());
    }
    let count = if wide { [0xff; 2] } else { (entries.len() as u16).to_le_bytes() };
    let last = [&count[..], &count, &four(directory.len()), &four(start), &[0, 0]].concat();
    [bytes, [&b"PK\x05\x06\0\0\0\0"[..], &last].concat()].concat()
}

/// Opens a file with these bytes and reads all of its tensors.
fn read(bytes: &[u8]) -> Result<usize, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.bin");
    std::fs::write(&path, bytes).unwrap();
    let file = PytorchFiles::open(&[path]).map_err(|error| error.to_string())?;
    Ok(file.names().iter().map(|name| file.read_bytes(name).map_or(0, |bytes| bytes.len())).sum())
}

/// An archive of a pickle and one storage of eight bytes.
fn with_pickle(pickle: &[u8]) -> Vec<u8> {
    archive(&[("a/data.pkl", pickle), ("a/byteorder", b"little"), ("a/data/0", &[7; 8])])
}

/// A tensor of the storage, as a dictionary with the name `w`; the parts are what the pickle has for each argument.
fn tensor(class: &[u8], key: &[u8], count: &[u8], offset: &[u8], shape: &[u8], strides: &[u8]) -> Vec<u8> {
    let parts: [&[u8]; 12] = [
        b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storage",
        class,
        key,
        b"X\x03\0\0\0cpu",
        count,
        b"tQ",
        offset,
        shape,
        strides,
        b"\x89",
        b"ccollections\nOrderedDict\n)R",
        b"tRs.",
    ];
    parts.concat()
}

const FLOATS: &[u8] = b"ctorch\nFloatStorage\n";
const KEY: &[u8] = b"X\x01\0\0\x000";

#[test]
fn pickles_with_more_than_tensors_are_refused_by_name() {
    let call = b"cposix\nsystem\nX\x04\0\0\0echo\x85R.";
    let error = read(&with_pickle(call)).unwrap_err();
    assert!(error.contains("`posix.system`") && error.contains("no code of the file was run"), "{error}");
    // As protocol 4 names it, and by a name that would clear a terminal.
    let error = read(&with_pickle(b"\x80\x04\x8c\x02os\x8c\x06system\x93.")).unwrap_err();
    assert!(error.contains("`os.system`"), "{error}");
    let error = read(&with_pickle(b"c\x1b[2J\nx\n.")).unwrap_err();
    assert!(error.contains("\\u{1b}[2J.x"), "{error}");
    for (pickle, word) in [
        (&b"ctorch.storage\n_load_from_bytes\n."[..], "`torch.storage._load_from_bytes`"),
        (b"cbuiltins\neval\n.", "`builtins.eval`"),
        (b"i__main__\nx\n.", "0x69"),
        (b"ctorch\nFloatStorage\n)\x81.", "0x81"),
        (b"ccollections\nOrderedDict\n].", "expected a state dict, got a list"),
        (b"ccollections\nOrderedDict\n]R.", "expected a tuple, got a list"),
        (b"X\x01\0\0\0a)R.", "expected a function, got a text"),
        (b"}}b.", "dictionary without tensors"),
        (b"]}b.", "expected a dictionary for a state"),
        (b"}.", "dictionary without tensors"),
        (b"h\x01.", "recalls 1"),
        (b"0.", "takes more than it has"),
        (b"t.", "mark that is not open"),
        (b"}(K\x01u.", "key without a value"),
        (b"}", "cut off"),
        (b"X\xff\xff\xff\xff", "cut off"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff", "cut off"),
    ] {
        let error = read(&with_pickle(pickle)).unwrap_err();
        assert!(error.contains(word) && error.contains("weights.bin"), "{word}: {error}");
    }
}

#[test]
fn tensors_that_their_storage_does_not_hold_are_refused() {
    let with =
        |class, key, count, offset, shape, strides| read(&with_pickle(&tensor(class, key, count, offset, shape, strides)));
    let (two, one) = (b"K\x02\x85", b"K\x01\x85");
    assert_eq!(with(FLOATS, KEY, b"K\x02", b"K\0", two, one), Ok(8));
    for (found, word) in [
        (with(FLOATS, KEY, b"K\x02", b"K\x01", two, one), "reach beyond"),
        (with(FLOATS, KEY, b"K\x02", b"J\xff\xff\xff\xff", two, one), "-1 is not a size"),
        (with(FLOATS, KEY, b"K\x02", b"K\0", two, b"J\xff\xff\xff\xff\x85"), "-1 is not a size"),
        (with(FLOATS, KEY, b"K\x03", b"K\0", two, one), "should have 3 elements"),
        (with(FLOATS, KEY, b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", b"K\0", two, one), "elements"),
        (with(FLOATS, b"X\x01\0\0\x009", b"K\x02", b"K\0", two, one), "`9` is missing"),
        (with(FLOATS, b"X\x08\0\0\x00../../0x", b"K\x02", b"K\0", two, one), "is missing"),
        (with(FLOATS, KEY, b"K\x02", b"K\0", b"J\0\0\0\x7f\x85", b"K\0\x85"), "larger than the file"),
        (with(FLOATS, KEY, b"K\x02", b"K\0", two, b")"), "1 dimensions have 0 strides"),
        (with(FLOATS, KEY, b"K\x02", b"K\0", b"(K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01t", b")"), "9 dimensions"),
        (with(b"ctorch\nfloat32\n", KEY, b"K\x02", b"K\0", two, one), "class of a storage"),
    ] {
        let error = found.unwrap_err();
        assert!(error.contains(word), "{word}: {error}");
    }
}

#[test]
fn small_files_neither_recurse_nor_fill_memory() {
    let deep = [&b"\x80\x02"[..], &b"(".repeat(1_000_000), b"l"].concat();
    let tuples = [&b")"[..], &b"\x85".repeat(2_000_000), b"."].concat();
    let lists = [&b"]".repeat(2_100_000)[..], b"."].concat();
    let own = b"}q\0X\x01\0\0\0ah\0s.";
    let memo = [&b"}r\xff\xff\xff\xff"[..], &b"j\xff\xff\xff\xff".repeat(100_000), b"."].concat();
    for (pickle, word) in [
        (&deep[..], "0x6c"),
        (&tuples, "expected a state dict, got a tuple"),
        (&lists, "more than 2097152 objects"),
        (own, "dictionary without tensors"),
        (&memo, "dictionary without tensors"),
    ] {
        let error = read(&with_pickle(pickle)).unwrap_err();
        assert!(error.contains(word), "{word}: {error}");
    }
}

#[test]
fn archives_that_torch_does_not_write_are_refused() {
    let pickle = tensor(FLOATS, KEY, b"K\x02", b"K\0", b"K\x02\x85", b"K\x01\x85");
    let whole = with_pickle(&pickle);
    let changed = |at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        read(&bytes).unwrap_err()
    };
    let directory = whole.windows(4).position(|bytes| bytes == b"PK\x01\x02").unwrap();
    assert!(changed(directory + 8, 1).contains("encrypted"));
    assert!(changed(directory + 10, 8).contains("compressed"));
    assert!(changed(directory + 27, 0x7f).contains("sizes differ"));
    assert!(changed(directory + 45, 0x7f).contains("cut off"));
    assert!(changed(whole.len() - 12, 9).contains("cut off"));
    let entries = [("a/data.pkl", &pickle[..]), ("a/data/0", &[7; 8])];
    assert_eq!(read(&archive_of(&entries, true)), Ok(8));
    let script = archive(&[("a/data.pkl", &pickle), ("a/constants.pkl", b"."), ("a/data/0", &[7; 8])]);
    assert!(read(&script).unwrap_err().contains("TorchScript"));
    let big = archive(&[("a/data.pkl", &pickle), ("a/byteorder", b"big"), ("a/data/0", &[7; 8])]);
    assert!(read(&big).unwrap_err().contains("big-endian"));
    let twice = archive(&[("a/data.pkl", &pickle), ("a/data/0", &[7; 8]), ("a/data/0", &[7; 8])]);
    assert!(read(&twice).unwrap_err().contains("twice"));
    assert!(read(&archive(&[("b.txt", b"x")])).unwrap_err().contains("no `data.pkl`"));
    assert!(read(b"").unwrap_err().contains("empty"));
}
