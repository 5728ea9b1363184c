import type { ImagePart } from '@millrace/core'
import { type ImageSize, imageSize } from './image-size.ts'

/** Tokens of an image; undefined when its size must be known and is not. */
export type ImageRule = (image: ImagePart) => number | undefined

/** By its size, which only a `data:` URL tells. */
function sized(tokensOf: (size: ImageSize) => number): ImageRule {
  return ({ url }) => {
    const size = imageSize(url)
    return size === undefined ? undefined : tokensOf(size)
  }
}

/** The same for every image. */
export function flat(tokens: number): ImageRule {
  return () => tokens
}

/**
 * OpenAI's older way: the image is shrunk into a square of 2048 and to a shorter side of 768, then each tile of 512 costs,
 * and the whole as well. `low` detail is the whole alone.
 */
export function tiles(base: number, perTile: number): ImageRule {
  const high = sized(({ width, height }) => {
    const square = Math.min(1, 2048 / Math.max(width, height))
    const scale = square * Math.min(1, 768 / (Math.min(width, height) * square))
    return base + perTile * up((width * scale) / 512) * up((height * scale) / 512)
  })
  return (image) => (image.detail === 'low' ? base : high(image))
}

/**
 * OpenAI's newer way: patches of 32 pixels, of which at most `budget`; a larger image is shrunk until it has no more, and a
 * whole number of them along one side. Detail changes nothing.
 */
export function patches(budget: number, multiplier: number): ImageRule {
  return sized(({ width, height }) => {
    let across = width / 32
    let down = height / 32
    if (Math.ceil(across) * Math.ceil(down) > budget) {
      const scale = Math.sqrt(budget / (across * down))
      // A side of less than a patch is one all the same, so it cannot be made whole.
      const whole = [across * scale, down * scale].map((side) => (side < 1 ? 1 : Math.floor(side) / side))
      const fitted = scale * Math.min(...whole)
      across *= fitted
      down *= fitted
    }
    return Math.ceil(Math.min(budget, up(across) * up(down)) * multiplier)
  })
}

/** Anthropic's: patches of `side` pixels of an image shrunk to `longest` pixels and `most` patches. */
export function sheets(side: number, longest: number, most: number): ImageRule {
  return sized(({ width, height }) => {
    const scale = Math.min(1, longest / Math.max(width, height), Math.sqrt((most * side * side) / (width * height)))
    return Math.min(most, up((width * scale) / side) * up((height * scale) / side))
  })
}

/** Google's up to Gemini 2.5: crops of two thirds of the shorter side, from 256 to 768 pixels; a small image is one. */
export const crops: ImageRule = sized(({ width, height }) => {
  if (width <= 384 && height <= 384) return 258
  const unit = Math.min(768, Math.max(256, Math.floor(Math.min(width, height) / 1.5)))
  // Sides are no longer than what its API takes in; a header may claim anything.
  return 258 * Math.min(16, up(width / unit)) * Math.min(16, up(height / unit))
})

/** Rounds up, but not for the last digit of a division that should have come out whole. */
function up(value: number): number {
  return Math.max(1, Math.ceil(value - 1e-6))
}
