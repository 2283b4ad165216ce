//! How products with panels are computed, and how rows lie in memory for it.

use std::sync::LazyLock;

use super::packed::WeightForm;
use super::tiles;

/// Environment variable that chooses `tiles` (in plain code, where the processor has none) or `vectors`, to compare them.
const CHOICE: &str = "MOESAIC_CPU_ARITHMETIC";

/// The instructions that bf16 products are made of, for people and for fingerprints: `tiles` or `vectors`.
///
/// # Errors
/// When the environment asks for something else.
pub fn arithmetic_name() -> candle_core::Result<&'static str> {
    if let Some(choice) = std::env::var_os(CHOICE).filter(|choice| choice != "tiles" && choice != "vectors") {
        candle_core::bail!("{CHOICE} is {choice:?}: expected tiles or vectors");
    }
    Ok(match Arithmetic::best(WeightForm::Bf16) {
        Arithmetic::Vectors => "vectors",
        Arithmetic::Tiles => "tiles",
    })
}

/// Instructions for products. Each has one order of additions; they give the same whole numbers, but not the same bits
/// of f32 sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    /// Chains of additions, 8 or 16 outputs in a register: [`super::panel`], [`super::quantised_panel`]. Blocks of rows
    /// are `(words, rows)`.
    Vectors,
    /// 16 rows by 16 columns by 16 words in one instruction (AMX): [`super::tiles`]. Blocks of rows are
    /// `(words / 16, rows, 16)`, with words filled up to whole tiles.
    Tiles,
}

impl Arithmetic {
    /// The fastest one of this processor, or what [`CHOICE`] says.
    pub fn best(form: WeightForm) -> Self {
        static USES_TILES: LazyLock<bool> = LazyLock::new(|| match std::env::var(CHOICE).as_deref() {
            Ok("tiles") => true,
            Ok("vectors") => false,
            _ => tiles::are_available(),
        });
        // Groups of 4-bit weights are shorter than a tile.
        if form != WeightForm::Int4 && *USES_TILES { Self::Tiles } else { Self::Vectors }
    }

    /// Rows of a block at most: as many as leave registers for the weights.
    pub const fn max_rows(self) -> usize {
        match self {
            Self::Vectors => super::panel::MAX_ROWS,
            Self::Tiles => tiles::MAX_ROWS,
        }
    }

    /// Words for which a row of so many has room.
    pub const fn padded_words(self, num_words: usize) -> usize {
        match self {
            Self::Vectors => num_words,
            Self::Tiles => num_words.next_multiple_of(tiles::SIZE),
        }
    }

    /// Where the words of a block of so many rows lie.
    pub const fn layout(self, num_rows: usize) -> Layout {
        let line = LINE * num_rows;
        match self {
            Self::Vectors => Layout { row: 1, word: num_rows, line },
            Self::Tiles => Layout { row: LINE, word: 1, line },
        }
    }
}

/// Words that a tile has of a row, and a cache line.
pub(crate) const LINE: usize = tiles::SIZE;

/// Words from one to the next of a block's rows, of a row's words within a line, and of a row's lines.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub row: usize,
    pub word: usize,
    pub line: usize,
}

impl Layout {
    /// Sets words of a row from word `first` on. `block` begins with the row.
    pub fn set(self, block: &mut [u32], first: usize, words: impl IntoIterator<Item = u32>) {
        let mut words = words.into_iter();
        let mut within = first % LINE;
        for line in block[first / LINE * self.line..].chunks_mut(self.line) {
            for place in line.iter_mut().step_by(self.word).take(LINE).skip(within) {
                let Some(word) = words.next() else { return };
                *place = word;
            }
            within = 0;
        }
    }
}

/// Rows of a block at most, whatever the arithmetic.
pub(crate) const MOST_ROWS: usize = tiles::MAX_ROWS;
