//! Fine-tunes the quickstart's model with the library, on the backend of one type alias:
//!
//! `cargo run --release -p burnish-examples --bin fine_tune`

use std::path::Path;

use burnish_examples::fine_tune::fine_tune;

/// Any burn backend that implements `FusedBackend`: `burnish_kernels::runtime::Wgpu`, `burnish_metal::Metal`, `burn_candle::Candle`, …
type Backend = burn::backend::Flex;

fn main() -> anyhow::Result<()> {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/assets/quickstart");
    let output = Path::new("runs/example");
    let (losses, answer) = fine_tune::<Backend>(&assets.join("model"), &assets.join("data/train.jsonl"), output)?;
    for (index, loss) in losses.iter().enumerate() {
        println!("step {}: loss {loss:.4}", index + 1);
    }
    println!("{answer}\nwrote {}", output.display());
    Ok(())
}
