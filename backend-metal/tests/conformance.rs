//! cubecl's own tests, those that cubecl-wgpu runs for `msl`, on emitted, repaired MSL in the emulator.
#![allow(missing_docs, unexpected_cfgs, unused, clippy::all, clippy::pedantic, clippy::unwrap_used)]

type TestRuntime = burnish_metal::emulator::EmulatorRuntime;

/// `testgen_all` but for `testgen_sync_plane`, one of whose four tests has a race on purpose.
mod tests_msl {
    pub type TestRuntime = super::TestRuntime;
    use cubecl_core::Runtime;
    use cubecl_core::flex32;
    use half::f16;

    macro_rules! typed {
        ($($name:ident: $float:ty, $int:ty, $uint:ty, $testgen:ident;)*) => {$(
            mod $name {
                use super::*;
                type FloatType = $float;
                type IntType = $int;
                type UintType = $uint;
                cubecl_core::$testgen!();
            }
        )*};
    }
    typed! {
        f16_ty: f16, i32, u32, testgen_float;
        f32_ty: f32, i32, u32, testgen_float;
        i16_ty: f32, i16, u32, testgen_int;
        i32_ty: f32, i32, u32, testgen_int;
        u16_ty: f32, i32, u16, testgen_uint;
        u32_ty: f32, i32, u32, testgen_uint;
    }
    cubecl_core::testgen_launch_untyped!();
    cubecl_core::testgen_cmma!();
    cubecl_core::testgen_numeric!();
    cubecl_core::testgen_file!();
    cubecl_core::testgen_metadata!();
    cubecl_core::testgen_topology!();
    cubecl_core::testgen_properties!();
    cubecl_core::testgen_constants!();
    cubecl_core::testgen_atomic_untyped!();
    cubecl_core::testgen_tensor_indexing!();
    cubecl_core::testgen_debug!();
    cubecl_core::testgen_binary_untyped!();
    cubecl_core::testgen_cluster!();
    cubecl_core::testgen_enums!();
    cubecl_core::testgen_comparison!();
    cubecl_core::testgen_to_client!();
    cubecl_core::testgen_all_reduce!();
    cubecl_std::testgen!();
    cubecl_std::testgen_tensor_identity!([f16, flex32, f32, u32]);
    cubecl_std::testgen_quantized_view!(f16);
}

mod synchronization {
    use burnish_metal::emulator::{EmulatorDevice, EmulatorRuntime};
    use cubecl_core::Runtime;
    use cubecl_core::runtime_tests::synchronization::*;

    #[test]
    fn a_cube_is_ordered() {
        for device in [EmulatorDevice::Checked, EmulatorDevice::Reversed, EmulatorDevice::Shuffled] {
            test_sync_cube::<EmulatorRuntime>(EmulatorRuntime::client(&device));
            test_finished_sync_cube::<EmulatorRuntime>(EmulatorRuntime::client(&device));
            test_sync_cube_shared::<EmulatorRuntime>(EmulatorRuntime::client(&device));
        }
    }

    fn race_of(test: impl FnOnce() + std::panic::UnwindSafe) -> String {
        let payload = std::panic::catch_unwind(test).unwrap_err();
        let message = payload.downcast_ref::<String>().unwrap().clone();
        assert!(message.contains("data race"), "{message}");
        message
    }

    #[test]
    fn without_repair_a_cube_is_not_ordered() {
        let client = || EmulatorRuntime::client(&EmulatorDevice::Unrepaired);
        race_of(move || test_sync_cube::<EmulatorRuntime>(client()));
        race_of(move || test_finished_sync_cube::<EmulatorRuntime>(client()));
    }

    /// That kernel's own comment: "First 32 elements should be 1, while last 32 elements may or may not be 1".
    #[test]
    fn the_race_that_cubecl_planted_is_found_and_otherwise_its_test_passes() {
        test_sync_plane::<EmulatorRuntime>(EmulatorRuntime::client(&EmulatorDevice::Quick));
        let message = race_of(|| test_sync_plane::<EmulatorRuntime>(EmulatorRuntime::client(&EmulatorDevice::Checked)));
        assert!(message.contains("shared_memory_0"), "{message}");
    }
}

mod without_repair {
    use std::process::Command;

    /// The tests that fail without repair, in clang or the emulator. Those with scalar braces are not among them: clang accepts
    /// them, Apple's compiler does not.
    const FAILING: &[&str] = &[
        "tests_msl::f32_ty::test_atomic_add_float",
        "tests_msl::i32_ty::test_atomic_add_int",
        "tests_msl::test_debug_print",
        "tests_msl::test_regression_issue_1218",
    ];

    #[test]
    fn these_tests_fail() {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["tests_msl::", "--test-threads", "2"])
            .env("BURNISH_EMULATOR_DEVICE", "unrepaired")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let mut failing: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED")).collect();
        failing.sort_unstable();
        assert_eq!(failing, FAILING, "{}", text.lines().last().unwrap_or_default());
    }
}
