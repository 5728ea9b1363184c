// Streams that are begun on one replica, cut off, and gone on with elsewhere: two processes, a real Redis, real sockets.
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { get, type IncomingMessage } from 'node:http'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import {
  type Random,
  type RedisServer,
  requireRedis,
  type ScriptedProvider,
  seededRandom,
  startRedis,
  startScriptedProvider
} from '@millrace/testkit'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import type { Replica } from './resume-main.ts'

const seed = 20_261_123
/** `MILLRACE_RESUME_CUTS=1000` for the whole test. */
const cuts = Number(process.env.MILLRACE_RESUME_CUTS ?? 60)
const { server: redis, skip } = await requireRedis()

interface RunningReplica {
  readonly url: string
  readonly child: ChildProcess
  stats(): Promise<Record<string, number> & { log: Record<string, number> }>
  cancel(id: string): Promise<unknown>
}

let provider: ScriptedProvider
const opened: (() => unknown)[] = []

beforeAll(async () => {
  provider = await startScriptedProvider({
    reply: ({ prompt }) => {
      const [count = 100, tokensPerSecond = 1000] = prompt.split(' ').map(Number)
      return { text: answerOf(count), tokensPerSecond }
    }
  })
})
afterEach(async () => {
  for (const close of opened.splice(0).toReversed()) await close()
})
afterAll(async () => {
  await provider?.close()
  await redis?.stop()
})

async function replica(options: Partial<Replica> = {}): Promise<RunningReplica> {
  const task: Replica = { redisUrl: (redis as RedisServer).url, providerUrl: provider.url, ...options }
  const child = fork(fileURLToPath(new URL('./resume-main.ts', import.meta.url)), [JSON.stringify(task)], {
    execArgv: ['--conditions=@millrace/source'],
    stdio: 'inherit'
  })
  const ended = once(child, 'exit')
  opened.push(async () => {
    child.kill('SIGKILL')
    await ended
  })
  const [{ url }] = (await Promise.race([once(child, 'message'), ended.then(() => Promise.reject(new Error('it ended')))])) as [
    { url: string }
  ]
  return {
    url,
    child,
    stats: async () => JSON.parse((await fetchAll(`${url}/stats`)).text),
    cancel: async (id) => JSON.parse((await fetchAll(`${url}/cancel?id=${encodeURIComponent(id)}`)).text)
  }
}

interface Received {
  readonly status: number
  readonly id: string
  /** Whole events, of what came. */
  readonly events: string
  readonly text: string
  /** It came to its end. */
  readonly whole: boolean
}

/** Words of one to four bytes a letter, and some that look like the wire. */
function answerOf(count: number): string {
  const words = ['für', '😀😀', 'नमस्ते', 'plain', '"quoted"', 'back\\slash', 'data:', 'id:7']
  return Array.from({ length: count }, (_, at) => `${words[at % words.length]}${at}`).join(' ')
}

/** Reads an answer on a socket of its own, which is destroyed behind the first `bytes`. */
function fetchAll(url: string, lastEventId?: string, bytes = Number.POSITIVE_INFINITY): Promise<Received> {
  return new Promise((resolve, reject) => {
    const headers = lastEventId === undefined ? {} : { 'last-event-id': lastEventId }
    const request = get(url, { agent: false, headers }, (response) => {
      const pieces: Buffer[] = []
      let size = 0
      const done = (whole: boolean): void => {
        const text = Buffer.concat(pieces).subarray(0, bytes).toString('utf8')
        const id = String(response.headers['x-stream-id'])
        const end = text.lastIndexOf('\n\n')
        resolve({ status: response.statusCode ?? 0, id, events: end < 0 ? '' : text.slice(0, end + 2), text, whole })
      }
      response.on('data', (piece: Buffer) => {
        pieces.push(piece)
        size += piece.length
        if (size < bytes) return
        request.destroy()
        done(false)
      })
      response.on('end', () => done(true))
      response.on('error', () => done(false))
    })
    request.on('error', reject)
  })
}

/** Where a client goes on that has got these events. */
function lastIdOf(events: string, id: string): string {
  return [...events.matchAll(/^id: (.*)$/gm)].at(-1)?.[1] ?? `${id}/0`
}

function textOf(events: string): string {
  const payloads = [...events.matchAll(/^data: (\{.*)$/gm)].map(
    ([, json = '']) => JSON.parse(json) as { choices: { delta: { content?: string } }[] }
  )
  return payloads.map(({ choices }) => choices[0]?.delta.content ?? '').join('')
}

async function until(condition: () => boolean | Promise<boolean>, withinMs = 15_000): Promise<void> {
  const end = performance.now() + withinMs
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`not within ${withinMs} ms: ${condition.toString()}`)
    await delay(10)
  }
}

/** One stream, cut up to three times, each time gone on with on the next replica. */
async function cutAndResume(replicas: readonly RunningReplica[], random: Random, first: number): Promise<void> {
  const at = (number: number): RunningReplica => replicas[number % replicas.length] as RunningReplica
  const count = 100 + Math.floor(random() * 200)
  const speed = random() < 0.2 ? 100_000 : 1000 // some have ended before their client comes back
  const began = at(first)
  // An event of a token has more bytes than that: the cut is always within the stream.
  const tokens = answerOf(count).match(/\s*\S{1,6}/gu)?.length ?? 0
  const cut = 1 + Math.floor(random() * tokens * 262)
  let { id, events, whole } = await fetchAll(`${began.url}/start?prompt=${count}%20${speed}`, undefined, cut)
  expect(id).toMatch(/^[\w-]{22}$/)
  expect(whole).toBe(false)
  for (let turn = 1; !whole; turn++) {
    if (random() < 0.3) await delay(random() * 300)
    const again = turn < 3 && random() < 0.5 ? 1 + Math.floor(random() * count * 200) : Number.POSITIVE_INFINITY
    const more = await fetchAll(`${at(first + turn).url}/resume`, lastIdOf(events, id), again)
    expect(more.status).toBe(200)
    events += more.events
    whole = more.whole
  }
  const truth = await fetchAll(`${began.url}/resume`, id)
  expect(events === truth.text).toBe(true)
  expect(textOf(events) === answerOf(count)).toBe(true)
  expect(events.endsWith('data: [DONE]\n\n')).toBe(true)
}

async function many(replicas: readonly RunningReplica[], times: number): Promise<void> {
  let left = times
  await Promise.all(
    Array.from({ length: 8 }, async () => {
      while (left-- > 0) await cutAndResume(replicas, seededRandom(seed + left), left)
    })
  )
}

describe.skipIf(skip !== undefined)('a stream between two replicas', () => {
  it(`goes on elsewhere where its client was cut off, ${cuts} times, with no byte lost or doubled (seed ${seed})`, {
    timeout: 60_000 + cuts * 400
  }, async () => {
    const replicas = await Promise.all([replica(), replica()])
    const startedAt = performance.now()
    await many(replicas, cuts)
    const stats = await Promise.all(replicas.map((each) => each.stats()))
    console.log(
      `${cuts} streams in ${Math.round(performance.now() - startedAt)} ms; resumed elsewhere: ${stats.map((each) => each.resumedElsewhere).join(', ')}`
    )
    const sum = (name: string): number => stats.reduce((total, each) => total + (each[name] as number), 0)
    expect(sum('started')).toBe(cuts)
    expect(sum('finished')).toBe(cuts)
    expect(sum('resumedElsewhere')).toBeGreaterThan(cuts / 2)
    expect([sum('unknown'), sum('unshared'), sum('running'), sum('readers')]).toEqual([0, 0, 0, 0])
  })

  it('goes on likewise on the same replica', { timeout: 60_000 }, async () => {
    const one = await replica()
    await many([one], Math.min(cuts, 200))
    expect(await one.stats()).toMatchObject({ resumedElsewhere: 0, unknown: 0, running: 0, readers: 0 })
  })

  it('is stopped from the other one: the provider is left within a second, and all clients read a legal end', async () => {
    const [one, other] = await Promise.all([replica(), replica()])
    const first = await fetchAll(`${one.url}/start?prompt=3000%20200`, undefined, 2000)
    const followers = [one, other].map((each) => fetchAll(`${each.url}/resume`, lastIdOf(first.events, first.id)))
    await delay(100)
    expect(provider.stats().openAnswers).toBe(1)
    const startedAt = performance.now()
    expect(await other.cancel(first.id)).toBe(true)
    await until(() => provider.stats().openAnswers === 0)
    const tookMs = performance.now() - startedAt
    expect(tookMs).toBeLessThan(1000)
    const [here, there] = await Promise.all(followers)
    expect(here).toMatchObject({ status: 200, whole: true })
    expect(there?.text === here?.text).toBe(true)
    expect(here?.text).toMatch(/"finish_reason":"length".*\n\nid: .*\ndata: \[DONE\]\n\n$/)
    expect(await other.cancel(first.id)).toBe(false)
    expect(await one.stats()).toMatchObject({ cancelled: 1, running: 0 })
  })

  it('holds its provider back while its client takes nothing, and leaves it when that goes on too long', {
    timeout: 30_000
  }, async () => {
    const one = await replica({ options: { abandonMs: 3000, maxAheadBytes: 262_144, maxBytes: 1_048_576 } })
    const before = provider.stats().tokensOut
    const response = await new Promise<IncomingMessage>((resolve, reject) => {
      get(`${one.url}/start?prompt=400000%20100000000`, { agent: false }, resolve).on('error', reject)
    })
    response.pause()
    let written = -1
    while (provider.stats().tokensOut !== written) {
      written = provider.stats().tokensOut
      await delay(300)
    }
    // A quarter of a mebibyte ahead, and what the sockets on both sides hold: about 200 and 260 bytes a token.
    expect(written - before).toBeGreaterThan(1000)
    expect(written - before).toBeLessThan(100_000)
    expect(provider.stats().openAnswers).toBe(1)
    await until(() => provider.stats().openAnswers === 0)
    expect(await one.stats()).toMatchObject({ abandoned: 1, running: 0 })
    response.destroy()
  })

  it('is given up when its last reader, which was elsewhere, has left', { timeout: 30_000 }, async () => {
    const options = { abandonMs: 1000 }
    const [one, other] = await Promise.all([replica({ options }), replica({ options })])
    const first = await fetchAll(`${one.url}/start?prompt=3000%20200`, undefined, 2000)
    const far = get(`${other.url}/resume`, { agent: false, headers: { 'last-event-id': lastIdOf(first.events, first.id) } })
    far.on('response', (response) => response.resume()).on('error', () => {})
    await delay(3000)
    expect(provider.stats().openAnswers).toBe(1)
    far.destroy()
    await until(() => provider.stats().openAnswers === 0)
    expect(await one.stats()).toMatchObject({ abandoned: 1, running: 0 })
  })

  it('is one of 500 at once, all resumed elsewhere, a hundred of them cancelled from there', { timeout: 60_000 }, async () => {
    // Five hundred at once on a busy machine: what is judged is that nothing is lost, not how long a command takes.
    const patient = { commandTimeoutMs: 5000, patienceMs: 20_000 }
    const [one, other] = await Promise.all([replica(patient), replica(patient)])
    const firsts = await Promise.all(
      Array.from({ length: 500 }, () => fetchAll(`${one.url}/start?prompt=60%2010`, undefined, 300))
    )
    expect(await one.stats()).toMatchObject({ running: 500, started: 500 })
    const rests = firsts.map(({ id, events }) => fetchAll(`${other.url}/resume`, lastIdOf(events, id)))
    await Promise.all(firsts.slice(0, 100).map(({ id }) => other.cancel(id)))
    for (const [number, { text }] of (await Promise.all(rests)).entries()) {
      const all = (firsts[number]?.events ?? '') + text
      expect(all.endsWith('data: [DONE]\n\n')).toBe(true)
      if (number >= 100) expect(textOf(all) === answerOf(60)).toBe(true)
    }
    expect(await one.stats()).toMatchObject({ running: 0, cancelled: 100, finished: 400, unshared: 0 })
    expect(await other.stats()).toMatchObject({ readers: 0, resumedElsewhere: 500, unheard: 0 })
  })

  it('that nobody knows is refused in time, without a word to Redis where it has no shape', async () => {
    const one = await replica()
    const startedAt = performance.now()
    for (const wrong of ['x', '../etc', `${'A'.repeat(22)}/1`, `${'A'.repeat(22)}/1;DEL`]) {
      expect(await fetchAll(`${one.url}/resume`, wrong)).toMatchObject({ status: 404, text: 'invalid-request' })
    }
    expect(performance.now() - startedAt).toBeLessThan(1500)
    expect(await one.stats()).toMatchObject({ unknown: 4 })
  })

  it('whose process is killed is told of to its readers elsewhere, in about the time its log outlives it', {
    timeout: 30_000
  }, async () => {
    const [one, other] = await Promise.all([replica({ ttlMs: 2000 }), replica({ ttlMs: 2000 })])
    const first = await fetchAll(`${one.url}/start?prompt=3000%20200`, undefined, 2000)
    const following = fetchAll(`${other.url}/resume`, lastIdOf(first.events, first.id))
    await delay(300)
    one.child.kill('SIGKILL')
    const killedAt = performance.now()
    const { text, whole } = await following
    expect(performance.now() - killedAt).toBeLessThan(2 * 2000 + 1500)
    expect(whole).toBe(true)
    expect(text).toMatch(/"content":.*\n\ndata: \{"error":.*\}\n\n$/)
    await until(() => provider.stats().openAnswers === 0)
    expect((await fetchAll(`${other.url}/resume`, lastIdOf(first.events, first.id))).status).toBe(404)
  })

  it('ends in order when its replica is closed: clients here and elsewhere get a typed error event', async () => {
    const [one, other] = await Promise.all([replica(), replica()])
    const first = await fetchAll(`${one.url}/start?prompt=3000%20200`, undefined, 2000)
    const following = [one, other].map((each) => fetchAll(`${each.url}/resume`, lastIdOf(first.events, first.id)))
    await delay(100)
    const exit = once(one.child, 'exit')
    one.child.send('close')
    for (const { text, whole } of await Promise.all(following)) {
      expect(whole).toBe(true)
      expect(text).toMatch(/data: \{"error":.*\}\n\n$/)
    }
    expect(await exit).toEqual([0, null])
    expect(provider.stats().openAnswers).toBe(0)
  })
})

describe.skipIf(skip !== undefined)('a stream whose Redis fails', () => {
  async function ownRedis(): Promise<RedisServer> {
    const server = await startRedis()
    if (server === undefined) throw new Error('Redis did not start a second time')
    opened.push(() => server.stop())
    return server
  }

  for (const how of ['kill', 'pause'] as const) {
    it(`is served here as if nothing were when Redis is ${how === 'kill' ? 'killed' : 'frozen'}, and elsewhere ends in time`, {
      timeout: 30_000
    }, async () => {
      const server = await ownRedis()
      const options = { redisUrl: server.url, patienceMs: 500 }
      const [one, other] = await Promise.all([replica(options), replica(options)])
      const first = await fetchAll(`${one.url}/start?prompt=1000%20400`, undefined, 2000)
      const elsewhere = fetchAll(`${other.url}/resume`, lastIdOf(first.events, first.id))
      await delay(200)
      await server[how]()
      const failedAt = performance.now()
      const [rest, theirs] = await Promise.all([
        fetchAll(`${one.url}/resume`, lastIdOf(first.events, first.id)),
        elsewhere.then((received) => ({ ...received, afterMs: performance.now() - failedAt }))
      ])
      expect(textOf(first.events + rest.events).split(' ')).toHaveLength(1000)
      expect(theirs.afterMs).toBeLessThan(4000)
      expect(theirs.text).toMatch(/data: \{"error":.*\}\n\n$/)
      const askedAt = performance.now()
      expect((await fetchAll(`${other.url}/resume`, first.id)).status).toBe(503)
      expect(performance.now() - askedAt).toBeLessThan(2000)
      // One that begins now has the pace it always has.
      const startedAt = performance.now()
      const fresh = await fetchAll(`${one.url}/start?prompt=200%20100000`)
      expect(fresh.text).toMatch(/\[DONE\]\n\n$/)
      expect(performance.now() - startedAt).toBeLessThan(1500)
      await until(async () => ((await one.stats()).unshared as number) >= 1)
    })
  }
})
