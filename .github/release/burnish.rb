# Written by `.github/release/formula`, which fills in version and checksums.
class Burnish < Formula
  desc "Fine-tune language models on a Mac, in Rust"
  homepage "https://github.com/burnish-rs/burnish"
  version "@VERSION@"
  license any_of: ["MIT", "Apache-2.0"]

  on_macos do
    depends_on arch: :arm64
    depends_on macos: :sonoma
    url "https://github.com/burnish-rs/burnish/releases/download/v@VERSION@/burnish-@VERSION@-aarch64-apple-darwin.tar.gz"
    sha256 "@SHA256 aarch64-apple-darwin@"
  end

  on_linux do
    on_arm do
      url "https://github.com/burnish-rs/burnish/releases/download/v@VERSION@/burnish-@VERSION@-aarch64-unknown-linux-gnu.tar.gz"
      sha256 "@SHA256 aarch64-unknown-linux-gnu@"
    end
    on_intel do
      url "https://github.com/burnish-rs/burnish/releases/download/v@VERSION@/burnish-@VERSION@-x86_64-unknown-linux-gnu.tar.gz"
      sha256 "@SHA256 x86_64-unknown-linux-gnu@"
    end
  end

  def install
    bin.install "burnish"
    man1.install Dir["man1/*.1"]
    bash_completion.install "completions/burnish.bash" => "burnish"
    zsh_completion.install "completions/_burnish"
    fish_completion.install "completions/burnish.fish"
  end

  test do
    system bin/"burnish", "quickstart", "--output-dir", testpath/"quickstart"
    assert_path_exists testpath/"quickstart/bookings-f16.gguf"
  end
end
