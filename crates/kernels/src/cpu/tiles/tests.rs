use half::bf16;

use super::super::arithmetic::Arithmetic;
use super::super::packed::{PackedRows, WeightForm, blocks};
use super::super::quantise::{fill_quantised_panel, quantise_row};
use super::super::quantised_panel;
use super::*;

/// The forms that can be tested here: on processors without tiles, their instructions are carried out by a handler.
fn forms() -> Vec<(&'static str, Forms)> {
    let mut all = vec![("plain", PLAIN)];
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    {
        if !are_available() {
            emulator::install();
        }
        all.push(("amx", amx::FORMS));
    }
    all
}

struct Numbers(u64);

impl Numbers {
    fn bf16s(&mut self, count: usize) -> Vec<bf16> {
        let mut number = || {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            bf16::from_f32((self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0)
        };
        (0..count).map(|_| number()).collect()
    }
}

fn pack(form: WeightForm, values: &[bf16], num_in: usize) -> PackedRows {
    let blocks = blocks(Arithmetic::Tiles, 0..values.len() / num_in, 0).collect();
    PackedRows::pack(Arithmetic::Tiles, form, blocks, num_in, |row| &values[row * num_in..][..num_in])
}

#[test]
fn bf16_products_are_those_of_the_oracle() {
    let mut numbers = Numbers(5);
    for (num_rows, num_steps) in [1, 2, 15, 16, 17, 31, 32].into_iter().flat_map(|rows| [0, 1, 2, 9].map(|s| (rows, s)))
    {
        let num_in = num_steps * 2 * SIZE;
        let (x, w) = (numbers.bf16s(num_rows * num_in.max(1)), numbers.bf16s(COLUMNS * num_in));
        let mut block = vec![0; num_rows.next_multiple_of(SIZE) * num_in / 2];
        let mut panel = vec![0; num_in / 2 * COLUMNS];
        let pair = |two: &[bf16]| u32::from(two[0].to_bits()) | u32::from(two[1].to_bits()) << 16;
        for (word, two) in block.iter_mut().zip(x[..num_rows * num_in].chunks_exact(2)) {
            *word = pair(two);
        }
        for (index, word) in panel.iter_mut().enumerate() {
            *word = pair(&w[index % COLUMNS * num_in + 2 * (index / COLUMNS)..][..2]);
        }
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
                let products = (0..num_in).map(|i| x[row * num_in + i].to_f64() * w[column * num_in + i].to_f64());
                let exact = f64::from(start[place]) + products.sum::<f64>();
                assert!((f64::from(*ours) - exact).abs() < 1e-4, "{what}: {ours}, not {exact}");
            }
            // The other rows do not matter.
            let (row, stride) = (num_rows - 1, num_in / 2);
            let mut alone = start[row * COLUMNS..].to_vec();
            let mut only = vec![0; SIZE * stride];
            only[..stride].copy_from_slice(&block[row * stride..][..stride]);
            multiply_add_with(forms, &only, &panel, Fetch::NOTHING, &mut alone);
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
        let bits = Bits::Eight;
        let num_groups = num_in.div_ceil(bits.group());
        let mut panel = vec![0; num_groups * bits.group_words()];
        fill_quantised_panel(bits, &mut panel, &w, num_in);
        let start: Vec<f32> = (0..num_rows * COLUMNS).map(|index| index as f32 / 7.0).collect();
        let num_words = num_groups * bits.quads();
        let padded = num_rows.next_multiple_of(SIZE);
        let parts = num_groups * num_rows;
        let (mut quads, mut scales, mut sums) = (vec![0; padded * num_words], vec![0.0; parts], vec![0; parts]);
        for (row, values) in x.chunks_exact(num_in).enumerate() {
            let (scales, sums) = (&mut scales[row..], &mut sums[row..]);
            quantise_row(bits, values, (1, num_rows), &mut quads[row * num_words..], scales, sums);
        }
        let block = QuantisedBlock { quads: &quads, scales: &scales, sums: &sums };
        let mut expected = start.clone();
        for first in (0..num_rows).step_by(super::super::panel::MAX_ROWS) {
            // Vectors want words of all rows together, and fewer rows.
            let rows = first..num_rows.min(first + super::super::panel::MAX_ROWS);
            let of = |words: usize, value: &dyn Fn(usize, usize) -> usize| -> Vec<usize> {
                (0..words).flat_map(|word| rows.clone().map(move |row| (word, row))).map(|(w, r)| value(w, r)).collect()
            };
            let quads: Vec<u32> =
                of(num_words, &|word, row| row * num_words + word).iter().map(|i| quads[*i]).collect();
            let places = of(num_groups, &|group, row| group * num_rows + row);
            let scales: Vec<f32> = places.iter().map(|place| scales[*place]).collect();
            let sums: Vec<i32> = places.iter().map(|place| sums[*place]).collect();
            let block = QuantisedBlock { quads: &quads, scales: &scales, sums: &sums };
            let acc = &mut expected[rows.start * COLUMNS..rows.end * COLUMNS];
            quantised_panel::multiply_add(bits, block, &panel, Fetch::NOTHING, acc);
        }
        for (name, forms) in forms() {
            let mut acc = start.clone();
            multiply_add_int8_with(forms, block, &panel, Fetch::STREAM, &mut acc);
            assert_eq!(acc, expected, "{name}, {num_rows} rows of {num_in}");
        }
    }
}

/// Rows of several blocks lie where products look for them, the last block filled up.
#[test]
fn packed_rows_are_whole_tiles() {
    let mut numbers = Numbers(7);
    for (num_rows, num_in) in [(1, 5), (40, 33), (65, 64)] {
        let (x, w) = (numbers.bf16s(num_rows * num_in), numbers.bf16s(COLUMNS * num_in));
        let mut panel = vec![0; num_in.div_ceil(2).next_multiple_of(SIZE) * COLUMNS];
        super::super::packed::fill_panel(&mut panel, &w, num_in);
        let rows = pack(WeightForm::Bf16, &x, num_in);
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
