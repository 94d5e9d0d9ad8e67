//! The program `burnish`.

fn main() -> std::process::ExitCode {
    // SAFETY: nothing has run yet, and no thread but this one.
    unsafe {
        burnish_recipes::environment::prepare();
    }
    burnish_recipes::cli::main()
}
