use half::bf16;

use super::super::arithmetic::Arithmetic;
use super::super::packed::{PackedRows, WeightForm, blocks, fill_panel};
use super::super::quantise::fill_quantised_panel;
use super::super::test_numbers::Numbers;
use super::*;

/// The forms that can be tested here: on processors without tiles, their instructions are carried out by a handler.
fn forms() -> Vec<(&'static str, Forms)> {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    let amx = {
        if !are_available() {
            emulator::install();
        }
        Some(("amx", amx::FORMS))
    };
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    let amx = None;
    [("plain", PLAIN)].into_iter().chain(amx).collect()
}

/// A block of rows of whole steps, as tiles want it.
fn block_of(rows: &[Vec<u32>]) -> Vec<u32> {
    let layout = Arithmetic::Tiles.layout(rows.len());
    let mut block = vec![0; rows.len() * rows[0].len()];
    for (index, row) in rows.iter().enumerate().filter(|(_, row)| !row.is_empty()) {
        layout.set(&mut block[index * layout.row..], 0, row.iter().copied());
    }
    block
}

fn pairs(values: &[bf16]) -> Vec<u32> {
    let pair = |two: &[bf16]| u32::from(two[0].to_bits()) | u32::from(two[1].to_bits()) << 16;
    values.chunks_exact(2).map(pair).collect()
}

#[test]
fn bf16_products_are_those_of_the_oracle() {
    let mut numbers = Numbers(5);
    for (num_rows, num_steps) in [1, 2, 15, 16, 17, 31, 32].into_iter().flat_map(|rows| [0, 1, 2, 9].map(|s| (rows, s)))
    {
        let num_in = num_steps * 2 * SIZE;
        let x: Vec<Vec<bf16>> = (0..num_rows).map(|_| numbers.bf16s(num_in)).collect();
        let w = numbers.bf16s(COLUMNS * num_in);
        let words: Vec<Vec<u32>> = x.iter().map(|row| pairs(row)).collect();
        let block = block_of(&words);
        let mut panel = vec![0; num_in / 2 * COLUMNS];
        fill_panel(&mut panel, &w, num_in);
        let start: Vec<f32> = (0..num_rows * COLUMNS).map(|index| index as f32 / 7.0).collect();
        let mut oracle = start.clone();
        multiply_add_with(PLAIN, &block, &panel, Fetch::STREAM, &mut oracle);
        for (name, forms) in forms() {
            let mut acc = start.clone();
            multiply_add_with(forms, &block, &panel, Fetch::STREAM, &mut acc);
            for (place, ours) in acc.iter().enumerate() {
                let what = format!("{name}, {num_rows} rows of {num_in}, output {place}");
                // How a processor rounds within a step is its own affair.
                assert!((ours - oracle[place]).abs() <= 2e-5, "{what}: {ours}, not {}", oracle[place]);
                let (row, column) = (place / COLUMNS, place % COLUMNS);
                let products = (0..num_in).map(|i| x[row][i].to_f64() * w[column * num_in + i].to_f64());
                let exact = f64::from(start[place]) + products.sum::<f64>();
                assert!((f64::from(*ours) - exact).abs() < 1e-4, "{what}: {ours}, not {exact}");
            }
            // The other rows do not matter.
            let row = num_rows - 1;
            let mut alone = start[row * COLUMNS..].to_vec();
            multiply_add_with(forms, &block_of(&words[row..]), &panel, Fetch::NOTHING, &mut alone);
            assert_eq!(alone, acc[row * COLUMNS..], "{name}, row {row} of {num_rows}");
        }
    }
}

/// Whole numbers: the bits of the vector forms.
#[test]
fn eight_bit_products_are_those_of_the_vector_forms() {
    let mut numbers = Numbers(6);
    for (num_rows, num_in) in [1, 7, 16, 17, 32].into_iter().flat_map(|rows| [1, 128, 300].map(|num_in| (rows, num_in)))
    {
        let (x, w) = (numbers.bf16s(num_rows * num_in), numbers.bf16s(COLUMNS * num_in));
        let mut panel = vec![0; num_in.div_ceil(Bits::Eight.group()) * Bits::Eight.group_words()];
        fill_quantised_panel(Bits::Eight, &mut panel, &w, num_in);
        let start: Vec<f32> = (0..num_rows * COLUMNS).map(|index| index as f32 / 7.0).collect();
        let packed = |arithmetic: Arithmetic| {
            let blocks = blocks(arithmetic, 0..num_rows).collect();
            PackedRows::pack(arithmetic, WeightForm::Int8, blocks, num_in, |row| &x[row * num_in..][..num_in])
        };
        let (vectors, tiles) = (packed(Arithmetic::Vectors), packed(Arithmetic::Tiles));
        let mut expected = start.clone();
        for block in &vectors.blocks {
            let acc = &mut expected[block.first * COLUMNS..][..block.num_rows * COLUMNS];
            vectors.multiply_add(*block, &panel, Fetch::NOTHING, acc);
        }
        for (name, forms) in forms() {
            let mut acc = start.clone();
            multiply_add_int8_with(forms, tiles.quantised_block(tiles.blocks[0]), &panel, Fetch::STREAM, &mut acc);
            assert_eq!(acc, expected, "{name}, {num_rows} rows of {num_in}");
        }
    }
}

/// Rows of several blocks lie where products look for them.
#[test]
fn packed_rows_are_whole_tiles() {
    let mut numbers = Numbers(7);
    for (num_rows, num_in) in [(1, 5), (40, 33), (65, 64)] {
        let (x, w) = (numbers.bf16s(num_rows * num_in), numbers.bf16s(COLUMNS * num_in));
        let mut panel = vec![0; num_in.div_ceil(2).next_multiple_of(SIZE) * COLUMNS];
        fill_panel(&mut panel, &w, num_in);
        let blocks = blocks(Arithmetic::Tiles, 0..num_rows).collect();
        let rows =
            PackedRows::pack(Arithmetic::Tiles, WeightForm::Bf16, blocks, num_in, |row| &x[row * num_in..][..num_in]);
        for block in &rows.blocks {
            let mut acc = vec![0.0; block.num_rows * COLUMNS];
            rows.multiply_add(*block, &panel, Fetch::NOTHING, &mut acc);
            for (place, ours) in acc.iter().enumerate() {
                let (row, column) = (block.first + place / COLUMNS, place % COLUMNS);
                let products = (0..num_in).map(|i| x[row * num_in + i].to_f64() * w[column * num_in + i].to_f64());
                let exact: f64 = products.sum();
                assert!((f64::from(*ours) - exact).abs() < 1e-4, "row {row} of {num_rows}: {ours}, not {exact}");
            }
        }
    }
}

/// Carries out tile instructions on processors without them, as Intel's manual describes them.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[expect(unsafe_code, reason = "a signal handler works on registers and on whatever memory these point to")]
mod emulator;
