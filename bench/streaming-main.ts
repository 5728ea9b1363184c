// One way to read streams, in a process of its own: `streaming-main.ts <subject> <address, ending in the shape>`.
import { openReader } from './streaming-readers.ts'
import { bytesOf, eventCount, type Shape, textOf } from './streaming-traffic.ts'
import { takeTurns } from './turns.ts'

const [subject = '', at = ''] = process.argv.slice(2)
const shape = at.slice(at.lastIndexOf('/') + 1) as Shape
const [text, bytes] = [textOf(shape), bytesOf(shape)]
const read = await openReader(subject, at)

takeTurns(async () => {
  const startedAt = performance.now()
  let firstMs: number | undefined
  let received = ''
  const length = await read((piece) => {
    firstMs ??= performance.now() - startedAt
    received += piece
    return undefined
  })
  if (length === undefined ? received !== text : length !== bytes) throw new Error(`${subject}: a wrong text`)
  return { units: eventCount, firstMs }
}, process.memoryUsage.rss())
