//! The program `burnish`, built with these tests so that they find it.

fn main() -> std::process::ExitCode {
    burnish_recipes::cli::main()
}
