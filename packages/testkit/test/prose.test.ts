import fc from 'fast-check'
import { expect, it } from 'vitest'
import { tokensOf } from '../src/answer.ts'
import { proseAbout, topicWords } from '../src/prose.ts'
import { seededRandom } from '../src/random.ts'
import { createTokenBucket } from '../src/token-bucket.ts'

const seed = 20261122

it('answers any prompt with 40 to 120 words, the same ones each time', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme' }), (prompt) => {
      const prose = proseAbout(prompt)
      const words = prose.split(/\s+/).length
      return words >= 40 && words <= 120 && prose === proseAbout(prompt)
    }),
    { seed, numRuns: 500 }
  )
})

it('gives different prompts different answers', () => {
  const answers = Array.from({ length: 100 }, (_, index) => proseAbout(`question ${index}`))
  expect(new Set(answers).size).toBeGreaterThan(95)
})

it('finds the words a prompt is about, as they are written', () => {
  expect(topicWords('Please explain how the tides of Brittany work')).toEqual(['tides', 'Brittany', 'work'])
})

it('cuts any text into tokens that join to the text', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => tokensOf(text).join('') === text),
    { seed, numRuns: 1000 }
  )
})

it('draws the same numbers from the same seed, evenly from 0 to 1', () => {
  const [a, b, other] = [seededRandom(seed), seededRandom(seed), seededRandom(seed + 1)]
  const drawn = Array.from({ length: 10_000 }, () => a())
  expect(drawn.slice(0, 100)).toEqual(Array.from({ length: 100 }, () => b()))
  expect(drawn[0]).not.toBe(other())
  expect(Math.min(...drawn)).toBeGreaterThanOrEqual(0)
  expect(Math.max(...drawn)).toBeLessThan(1)
  expect(drawn.reduce((sum, value) => sum + value) / drawn.length).toBeCloseTo(0.5, 1)
})

it('a bucket never accepts more than its size and what has refilled', () => {
  const steps = fc.array(fc.nat(500), { minLength: 1, maxLength: 200 })
  fc.assert(
    fc.property(steps, (waits) => {
      const bucket = createTokenBucket(5, 1000)
      let now = 1000
      let accepted = 0
      for (const wait of waits) {
        now += wait
        const taken = bucket.take(now)
        if (taken.accepted) accepted++
        else if (!bucket.take(now + taken.waitMs).accepted) return false
        else {
          now += taken.waitMs
          accepted++
        }
      }
      return accepted <= 5 + ((now - 1000) * 5) / 1000 + 1e-6
    }),
    { seed, numRuns: 200 }
  )
})
