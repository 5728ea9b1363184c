// One way to ask for leave, in a process of its own: `limits-main.ts <subject> <memory or the URL of a Redis>`.
import { inMemory, inRedis } from './limits-subjects.ts'
import { takeTurns } from './turns.ts'

const [name = '', where = ''] = process.argv.slice(2)
const call = await (where === 'memory' ? inMemory[name]?.() : inRedis[name]?.(where))
if (call === undefined) throw new TypeError(`${name} is no subject of ${where === 'memory' ? 'memory' : 'Redis'}`)
/** So short that the clock around each would weigh as much. */
const calls = where === 'memory' ? 1000 : 1

takeTurns(async () => {
  for (let made = 0; made < calls; made++) await call()
  return { units: calls }
})
