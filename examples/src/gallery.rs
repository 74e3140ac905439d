//! Real images for the example `images`: files of the user's, or JPEG and PNG files made at the start.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use flyball_core::rng::Rng;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::FilterType;
use image::{ImageFormat, Rgb, RgbImage};

/// Width and height of the made images, pixels.
const MADE_SIZE: (u32, u32) = (1_280, 960);
/// Longer side of a thumbnail, pixels.
const THUMBNAIL: u32 = 240;

/// Encoded images that are handed out in turn.
#[derive(Debug)]
pub struct Gallery {
    files: Vec<Arc<[u8]>>,
    next: AtomicUsize,
}

impl Gallery {
    /// Reads the images at `paths`.
    ///
    /// # Errors
    /// A path that cannot be read, or no path at all.
    pub fn read(paths: &[PathBuf]) -> Result<Self> {
        ensure!(!paths.is_empty(), "a gallery needs at least one image");
        let files = paths
            .iter()
            .map(|path| {
                let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
                Ok(Arc::from(bytes))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            files,
            next: AtomicUsize::new(0),
        })
    }

    /// Makes `count` images, JPEG and PNG in turn, in the directory `into`; the same ones for the same `seed`.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn make(into: &Path, count: usize, seed: u64) -> Result<Vec<PathBuf>> {
        let mut rng = Rng::seeded(seed);
        (0..count)
            .map(|index| {
                let picture = picture(MADE_SIZE, &mut rng);
                let (extension, format) = if index % 2 == 0 {
                    ("jpeg", ImageFormat::Jpeg)
                } else {
                    ("png", ImageFormat::Png)
                };
                let path = into.join(format!("picture-{index}.{extension}"));
                picture.save_with_format(&path, format)?;
                Ok(path)
            })
            .collect()
    }

    /// The next image.
    pub fn next(&self) -> Arc<[u8]> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        Arc::clone(&self.files[turn % self.files.len()])
    }
}

/// Decodes an image, makes it small and encodes the result as JPEG: tens of milliseconds of CPU.
///
/// # Errors
/// When the bytes are not a JPEG or PNG image.
pub fn thumbnail(encoded: &[u8]) -> Result<Vec<u8>> {
    let full = image::load_from_memory(encoded)?;
    let small = full.resize(THUMBNAIL, THUMBNAIL, FilterType::Lanczos3);
    let mut out = Cursor::new(Vec::new());
    small
        .to_rgb8()
        .write_with_encoder(JpegEncoder::new_with_quality(&mut out, 85))?;
    Ok(out.into_inner())
}

/// Hills in fog: smooth as a photograph, with its noise, so that codecs have what they are made for.
fn picture((width, height): (u32, u32), rng: &mut Rng) -> RgbImage {
    let phase: Vec<f32> = (0..6).map(|_| rng.f64() as f32 * 6.3).collect();
    RgbImage::from_fn(width, height, |x, y| {
        let (u, v) = (x as f32 / width as f32, y as f32 / height as f32);
        let ridges = (u * 9.0 + phase[0]).sin() * 0.12 + (u * 23.0 + phase[1]).sin() * 0.05;
        let depth = ((v + ridges) * 5.0).floor() / 5.0;
        let light = 0.5 + 0.3 * (u * 4.0 + v * 3.0 + phase[2]).sin();
        let grain = (rng.next_u32() >> 24) as f32 / 256.0 * 10.0;
        let channel = |tone: f32| ((depth * tone + light * 0.4) * 190.0 + grain) as u8;
        Rgb([channel(0.5), channel(0.7), channel(0.9)])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thumbnails_are_small_jpegs() {
        let picture = picture((320, 200), &mut Rng::seeded(1));
        for format in [ImageFormat::Jpeg, ImageFormat::Png] {
            let mut encoded = Cursor::new(Vec::new());
            picture.write_to(&mut encoded, format).unwrap();
            let small = thumbnail(encoded.get_ref()).unwrap();
            let decoded = image::load_from_memory(&small).unwrap();
            assert_eq!((decoded.width(), decoded.height()), (240, 150));
        }
        assert!(thumbnail(b"not an image").is_err());
    }
}
