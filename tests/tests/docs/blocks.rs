//! What the blocks of a page promise: commands are run or say why not, and examples in Rust are parts of files that compile.

use std::fs;

use burnish_engine::out_of_memory;

use super::page::{Block, Page, all, root};

/// Languages of commands.
const SHELL: [&str; 5] = ["sh", "bash", "shell", "zsh", "console"];

/// Whether the block has commands that a test runs.
pub fn is_run(block: &Block) -> bool {
    is_shell(block) && block.comment("not run:").is_none()
}

fn is_shell(block: &Block) -> bool {
    SHELL.contains(&block.language.as_str())
}

/// Blocks of commands in `docs/` that no test runs, without a reason.
pub fn unmarked(page: &Page) -> Vec<String> {
    let says_nothing = |block: &Block| is_shell(block) && block.comment("not run:").is_some_and(str::is_empty);
    let hidden = |block: &Block| !is_shell(block) && block.text.lines().any(|line| line.starts_with("$ "));
    let blocks = page.blocks.iter().filter(|_| page.path.starts_with("docs"));
    let found = blocks.filter(|block| says_nothing(block) || hidden(block));
    let line = |block: &Block| {
        format!(
            "{}:{}: commands that no test runs; put `<!-- not run: why -->` before them",
            page.path.display(),
            block.line
        )
    };
    found.map(line).collect()
}

/// Blocks of Rust in `docs/` that are not a part of the file that they name.
pub fn strange_code(page: &Page) -> Vec<String> {
    let in_docs = page.path.starts_with("docs");
    let blocks = page.blocks.iter().filter(|block| in_docs && block.language == "rust");
    blocks
        .filter_map(|block| is_part(block).err().map(|reason| format!("{}:{}: {reason}", page.path.display(), block.line)))
        .collect()
}

fn is_part(block: &Block) -> Result<(), String> {
    let name = block.comment("from:").ok_or("`<!-- from: FILE -->` before it should name a file that compiles")?;
    let text = fs::read_to_string(root().join(name)).map_err(|error| format!("{name}: {error}"))?;
    // A line of dots stands for lines that are left out.
    let mut rest = text.as_str();
    for part in block.text.split("// …\n") {
        let at = rest.find(part.trim_end()).ok_or_else(|| format!("{name} has no such lines: {part}"))?;
        rest = &rest[at + part.trim_end().len()..];
    }
    Ok(())
}

/// Whether the headings of a page that are in code are messages.
pub fn is_about_messages(page: &Page) -> bool {
    page.path.file_stem().is_some_and(|name| name.to_string_lossy().starts_with("troubleshooting"))
}

/// Messages of the troubleshooting pages that neither a command of the page prints nor the library makes.
pub fn unproduced_messages() -> Vec<String> {
    let pages: Vec<Page> = all().into_iter().filter(is_about_messages).collect();
    let messages: usize = pages.iter().map(|page| messages_of(page).count()).sum();
    assert!(messages > 40, "only {messages} messages");
    pages.iter().flat_map(unproduced_messages_of).collect()
}

fn messages_of(page: &Page) -> impl Iterator<Item = &str> {
    page.text.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'))
}

fn unproduced_messages_of(page: &Page) -> Vec<String> {
    let is_produced = |message: &str| {
        let mut blocks = page.blocks.iter().filter(|block| block.heading == message);
        blocks.any(|block| {
            let is_tested = block.language == "console" && is_run(block) || block.comment("from the library:").is_some();
            is_tested && block.text.contains(message)
        })
    };
    let without = messages_of(page).filter(|message| !is_produced(message));
    without.map(|message| format!("{}: no test produces `{message}`", page.path.display())).collect()
}

/// Blocks with a message that no command produces on every machine, and that differ from what the library makes of it.
pub fn other_messages(page: &Page) -> Vec<String> {
    let named = page.blocks.iter().filter_map(|block| Some((block, block.comment("from the library:")?)));
    let wrong = named.filter_map(|(block, name)| {
        let made = match name {
            "out of memory" => {
                let said = "can't allocate buffer of size: 2147483648".to_owned();
                format!("error: {}\n", out_of_memory(&[said], Some(512 << 20))?)
            }
            _ => "an unknown name\n".to_owned(),
        };
        (block.text != made).then(|| format!("{}:{}: the library says {made}", page.path.display(), block.line))
    });
    wrong.collect()
}
