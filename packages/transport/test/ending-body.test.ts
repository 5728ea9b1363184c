import type { HttpBody } from '@millrace/core'
import { expect, test } from 'vitest'
import { endingBody } from '../src/ending-body.ts'

const broken = new Error('broken')
const cancelled: unknown[] = []
const returned: string[] = []

function body(fails: 'fails' | 'ends'): HttpBody {
  return {
    async *[Symbol.asyncIterator]() {
      try {
        yield [Buffer.from('a')]
        yield [Buffer.from('b')]
        if (fails === 'fails') throw broken
      } finally {
        returned.push('over')
      }
    },
    text: (maxBytes) => (fails === 'fails' ? Promise.reject(broken) : Promise.resolve(`text within ${maxBytes}`)),
    cancel: (reason) => void cancelled.push(reason)
  }
}

async function read(source: HttpBody, batches = Number.POSITIVE_INFINITY): Promise<string> {
  let text = ''
  for await (const batch of source) {
    text += Buffer.concat(batch).toString()
    if (--batches === 0) break
  }
  return text
}

test.each([
  ['it has been read', 'ends', (source: HttpBody) => read(source), 'ab'],
  ['its reader leaves the loop', 'ends', (source: HttpBody) => read(source, 1), 'a'],
  ['reading it fails', 'fails', (source: HttpBody) => read(source).catch((error: unknown) => error), broken],
  ['its text has been read', 'ends', (source: HttpBody) => source.text(5), 'text within 5'],
  ['reading its text fails', 'fails', (source: HttpBody) => source.text().catch((error: unknown) => error), broken],
  ['it is cancelled', 'ends', async (source: HttpBody) => source.cancel('why'), undefined]
] as const)('ends when %s', async (_, fails, use, result) => {
  let ended = 0
  const source = endingBody(body(fails), () => void ended++)
  expect(ended).toBe(0)
  expect(await use(source)).toBe(result)
  expect(ended).toBeGreaterThan(0)
})

test('does not end before: a batch is not the last one', async () => {
  let ended = 0
  const iterator = endingBody(body('ends'), () => void ended++)[Symbol.asyncIterator]()
  await iterator.next()
  await iterator.next()
  expect(ended).toBe(0)
  expect(await iterator.next()).toEqual({ done: true, value: undefined })
  expect(ended).toBe(1)
})

test('hands on the reason of a cancel, and tells the source when its reader leaves', async () => {
  cancelled.length = returned.length = 0
  endingBody(body('ends'), () => {}).cancel('why')
  expect(cancelled).toEqual(['why'])
  await read(
    endingBody(body('ends'), () => {}),
    1
  )
  expect(returned).toEqual(['over'])
})

test('is as complete as its source is at each moment', () => {
  const source = { ...body('ends'), complete: false }
  const ending = endingBody(source, () => {})
  expect(ending.complete).toBe(false)
  source.complete = true
  expect(ending.complete).toBe(true)
})
