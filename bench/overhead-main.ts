// One way to make a whole call, in a process of its own: `overhead-main.ts <subject> <origin>`.
import { openSubject } from './subjects.ts'
import { answerText } from './traffic.ts'
import { takeTurns } from './turns.ts'

const [name = '', origin = ''] = process.argv.slice(2)
const call = await openSubject(name, origin)
takeTurns(async () => {
  if ((await call()) !== answerText) throw new Error(`${name}: a wrong answer`)
  return { units: 1 }
})
