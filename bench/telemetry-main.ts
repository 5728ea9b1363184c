// One way to make calls or read streams, with telemetry in one state: `telemetry-main.ts "<subject>: <state>" <address>`.
import { openReader } from './streaming-readers.ts'
import { bytesOf, eventCount, type Shape, textOf } from './streaming-traffic.ts'
import { openSubject } from './subjects.ts'
import { observe } from './telemetry-states.ts'
import { answerText } from './traffic.ts'
import { takeTurns } from './turns.ts'

const [name = '', at = ''] = process.argv.slice(2)
const [subject = '', state = ''] = name.split(': ')
const check = await observe(subject, state)

if (subject === 'adapter.stream') {
  const shape = at.slice(at.lastIndexOf('/') + 1) as Shape
  const read = await openReader(subject, at)
  const [text, bytes] = [textOf(shape), bytesOf(shape)]
  takeTurns(async () => {
    let received = ''
    const length = await read((piece) => {
      received += piece
      return undefined
    })
    if (length === undefined ? received !== text : length !== bytes) throw new Error(`${name}: a wrong text`)
    check()
    return { units: eventCount }
  })
} else {
  const call = await openSubject(subject, at)
  takeTurns(async () => {
    if ((await call()) !== answerText) throw new Error(`${name}: a wrong answer`)
    check()
    return { units: 1 }
  })
}
