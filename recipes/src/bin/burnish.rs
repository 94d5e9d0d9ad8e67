//! The program `burnish`.

fn main() -> std::process::ExitCode {
    burnish_recipes::cli::main()
}
