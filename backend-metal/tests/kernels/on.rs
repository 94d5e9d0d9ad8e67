//! The tests of a backend.

/// The tests of a backend, in each of the dtypes that it computes in.
macro_rules! on {
    ($name:ident: $backend:ty $(; $ignored:meta)?) => {
        mod $name {
            use super::*;

            on!(@tests $backend; $(#[$ignored])?; elements: rms_norm, add_rms_norm, layer_norm, rotary, glu, dropout, adamw, pack, squared_norm, select_rows, sample_tokens, cross_entropy);
            on!(@tests $backend; $(#[$ignored])?; moments: adamw8bit);
            on!(@tests $backend; $(#[$ignored])?; products: linear, few_rows, lora_linear);
            on!(@tests $backend; $(#[$ignored])?; packed: packed_rows, packed_linear, packed_few_rows, packed_lora_linear, packed_cross_entropy);
            on!(@tests $backend; $(#[$ignored])?; attention: attention, decode, append, append_rotated);
            on!(@tests $backend; $(#[$ignored])?; tiles: packed_adapters, packed_tiles_of_a_row, packed_tiles_of_odd_sizes,
                packed_tiles_of_some_rows, packed_tiles_that_are_whole, packed_tiles_several_deep_and_wide);
            on!(@tests $backend; $(#[$ignored])?; differences: gradients);
        }
    };
    (@tests $backend:ty; #[$ignored:meta]; $module:ident: $($test:ident),*) => {
        $(
            #[test]
            #[$ignored]
            fn $test() {
                for dtype in sample::dtypes::<$backend>() {
                    $module::$test::<$backend>(dtype);
                }
            }
        )*
    };
    (@tests $backend:ty; ; $module:ident: $($test:ident),*) => {
        $(
            #[test]
            fn $test() {
                for dtype in sample::dtypes::<$backend>() {
                    $module::$test::<$backend>(dtype);
                }
            }
        )*
    };
}
