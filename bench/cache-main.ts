// One way to find an answer or a key, in a process of its own: `cache-main.ts <subject> <memory, keys or the URL of a Redis>`.
import { keySubjects } from './cache-keys.ts'
import { memorySubjects } from './cache-memory.ts'
import { redisSubjects } from './cache-redis.ts'
import { takeTurns } from './turns.ts'

const [name = '', where = ''] = process.argv.slice(2)
const subjects = where === 'memory' ? memorySubjects : where === 'keys' ? keySubjects : redisSubjects
const work = await subjects[name]?.(where)
if (work === undefined) throw new TypeError(`${name} is no subject; they are ${Object.keys(subjects).join(', ')}`)
takeTurns(work)
