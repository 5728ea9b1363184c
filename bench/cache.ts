// What a hit costs, in memory and from Redis, what a key costs, and how many calls a stampede makes, beside the libraries that
// do the same. Flags: see docs/benchmarks.md.
import { startRedis } from '@millrace/testkit'
import { stampede } from './cache-stampede.ts'
import { compare } from './rig.ts'

const program = 'cache-main.ts'
const [lru, md5, client, keyv] = [
  'lru-cache with max and ttl',
  'md5 of JSON.stringify',
  '@redis/client and JSON.parse',
  'Keyv over @keyv/redis'
]

await compare({
  title: 'A hit of 4 KB in memory, of 1,000',
  program,
  at: 'memory',
  rows: [
    { subject: `${lru} again`, base: lru },
    { subject: 'Map', base: lru },
    { subject: 'cache.peek', base: lru, goals: [{ measure: 'cpu', atMost: 1.5 }] },
    { subject: 'cache.wrap', base: lru },
    { subject: 'BentoCache not serialising', base: lru },
    { subject: 'BentoCache', base: lru },
    { subject: 'LangChain InMemoryCache', base: lru },
    { subject: 'cacheable', base: lru },
    { subject: 'Keyv', base: lru }
  ],
  concurrencies: [1, 100],
  measures: ['cpu'],
  ms: 150
})

await compare({
  title: 'The key of a request of 16 KB in 20 messages, and a whole hit by it',
  program,
  at: 'keys',
  rows: [
    { subject: `${md5} again`, base: md5 },
    { subject: 'JSON.stringify', base: md5 },
    { subject: 'keyOf', base: md5 },
    { subject: 'keyOf of two-byte text', base: `${md5} of two-byte text` },
    { subject: 'withCache and collect', base: md5, goals: [{ measure: 'cpu', atMost: 0.5 }] },
    { subject: 'adapter.complete', base: md5 }
  ],
  concurrencies: [1],
  measures: ['cpu'],
  ms: 150
})

await stampede({
  title: '10,000 equal misses in one process; the answer takes 50 ms',
  where: 'memory',
  processes: 1,
  askers: 10_000,
  subjects: [
    'cache.wrap',
    'withCache and collect',
    'BentoCache getOrSet',
    'cacheable getOrSet',
    'Keyv get and set',
    'LangChain lookup and update'
  ],
  ours: ['cache.wrap', 'withCache and collect']
})

await using redis = await startRedis()
if (redis === undefined) console.log('\nThere is no redis-server here: what needs one is left out')
else {
  await compare({
    title: 'A hit of 4 KB in Redis, none in memory, of 1,000',
    program,
    at: redis.url,
    rows: [
      { subject: `${client} again`, base: client },
      { subject: 'ioredis and JSON.parse', base: client },
      { subject: 'createRedis and JSON.parse', base: client },
      { subject: 'withCache and collect', base: client, goals: [{ measure: 'cpu', atMost: 1.15 }] },
      { subject: 'cache.wrap', base: client, goals: [{ measure: 'cpu', atMost: 1.15 }] },
      { subject: keyv, base: client },
      { subject: 'cacheable over @keyv/redis', base: client },
      { subject: 'BentoCache over ioredis', base: client },
      { subject: 'LangChain RedisCache', base: client },
      { subject: 'withCache and collect', base: keyv, goals: [{ measure: 'rate', atLeast: 1.3 }] },
      { subject: 'cache.wrap', base: keyv, goals: [{ measure: 'rate', atLeast: 1.3 }] }
    ],
    concurrencies: [1, 100],
    goalsAt: [100],
    measures: ['cpu', 'rate', 'p99'],
    ms: 150
  })

  await stampede({
    title: '200 equal misses in four processes over one Redis; the answer takes 50 ms',
    where: redis.url,
    processes: 4,
    askers: 50,
    subjects: [
      'cache.wrap',
      'withCache and collect',
      'BentoCache getOrSet',
      'cacheable getOrSet',
      'Keyv get and set',
      'LangChain lookup and update'
    ],
    ours: ['cache.wrap', 'withCache and collect']
  })
}
