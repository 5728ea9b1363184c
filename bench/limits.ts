// What it costs to ask for leave when there is no need to wait, in memory and over Redis, and how much of a limit is let through;
// beside the libraries that do a part of it. Flags: see docs/benchmarks.md; --parts=memory,redis,accuracy
import { startRedis } from '@millrace/testkit'
import { accuracy, type Case } from './limits-accuracy.ts'
import { compare, readFlags } from './rig.ts'

const parts = ['memory', 'redis', 'accuracy']
const { only, parts: wanted = parts } = readFlags()
for (const part of wanted)
  if (!parts.includes(part)) throw new TypeError(`there is no part ${part}; name some of ${parts.join(', ')}`)

const program = 'limits-main.ts'
const ours = ['limiter.run: 1 limit', 'limiter.run: 2 limits', 'limiter.run: 5 limits']

if (wanted.includes('memory')) {
  const base = 'bare await'
  const acquire = ours.map((name) => name.replace('limiter.run', 'acquire and settle'))
  const rivals = ['p-limit', 'p-queue', 'p-queue with intervalCap', 'p-queue with strict intervalCap']
  await compare({
    title: 'Leave for a call that need not wait, in memory',
    program,
    at: 'memory',
    rows: [`${base} again`, ...ours, ...acquire, ...rivals].map((subject) => ({ subject, base })),
    concurrencies: [1, 50],
    measures: ['added', 'cpu'],
    ms: 150
  })
}

await using redis = wanted.some((part) => part !== 'memory') ? await startRedis() : undefined
if (redis === undefined && wanted.some((part) => part !== 'memory')) {
  console.log('\nThere is no redis-server here: what needs one is left out')
}
if (redis !== undefined && wanted.includes('redis')) {
  const base = 'one EVALSHA'
  await compare({
    title: 'Leave for a call that need not wait, over Redis',
    program,
    at: redis.url,
    rows: [`${base} again`, 'two EVALSHA', ...ours].map((subject) => ({ subject, base })),
    concurrencies: [50],
    measures: ['cpu', 'rate', 'p99'],
    ms: 300
  })
}
if (wanted.includes('accuracy')) {
  const shared: readonly Case[] =
    redis === undefined
      ? []
      : [
          { subject: 'requests', processes: 1, url: redis.url },
          { subject: 'requests', processes: 4, url: redis.url },
          { subject: 'tokens', processes: 4, url: redis.url }
        ]
  const cases: readonly Case[] = [
    { subject: 'requests', processes: 1 },
    { subject: 'tokens', processes: 1 },
    ...shared,
    { subject: 'p-queue with intervalCap', processes: 1 },
    { subject: 'p-queue with strict intervalCap', processes: 1 }
  ]
  await accuracy(cases.filter(({ subject }) => only?.includes(subject) ?? true))
}
