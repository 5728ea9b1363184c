import { expect, test } from 'vitest'
import { memoised } from '../src/memo.ts'

function counting(): { count: (text: string) => number; asked: string[] } {
  const asked: string[] = []
  return {
    asked,
    count(text) {
      asked.push(text)
      return text.length
    }
  }
}

test('counts a text once, however often it comes', () => {
  const { count, asked } = counting()
  const own = memoised(count)
  const text = 'a message of some length, such as is sent again with each turn of a conversation'
  for (let turn = 0; turn < 5; turn++) expect(own(JSON.parse(JSON.stringify(text)) as string)).toBe(text.length)
  expect(asked).toHaveLength(1)
})

test('holds two million characters at most, and lets go of what was not asked for lately', () => {
  const { count, asked } = counting()
  const own = memoised(count)
  const text = (index: number): string => `${index}`.padEnd(100_000, '.')
  for (let index = 0; index < 40; index++) {
    own(text(index))
    own(text(0))
  }
  expect(asked).toHaveLength(40)
  own(text(0))
  own(text(39))
  expect(asked).toHaveLength(40)
  for (let index = 1; index < 20; index++) own(text(index))
  expect(asked).toHaveLength(59)
})

test('does not keep a long text alive for a slice of it', () => {
  const own = memoised((text) => text.length)
  const used = (): number => {
    globalThis.gc?.()
    return process.memoryUsage().heapUsed
  }
  expect(globalThis.gc).toBeDefined()
  const before = used()
  for (let index = 0; index < 40; index++) own(`${index}`.padEnd(2_000_000, 'long text ').slice(0, 100))
  expect(used() - before).toBeLessThan(10_000_000)
})
