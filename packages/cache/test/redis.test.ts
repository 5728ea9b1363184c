import { randomUUID } from 'node:crypto'
import { createServer, type Socket } from 'node:net'
import { setImmediate as tick } from 'node:timers/promises'
import { inspect } from 'node:util'
import KeyvRedis from '@keyv/redis'
import { isMillraceError } from '@millrace/core'
import { probeLeaks } from '@millrace/testkit'
import { Keyv } from 'keyv'
import { afterEach, describe, expect, it } from 'vitest'
import { createRedis, type RedisStore } from '../src/redis.ts'
import { guardStore } from '../src/store.ts'
import { startRedisProxy } from './redis-proxy.ts'
import { missingRedis, redisRig, until } from './redis-rig.ts'

const skip = await missingRedis()
const rig = redisRig()
afterEach(() => rig.close())

const thrown = (work: Promise<unknown>): Promise<unknown> => work.catch((error: unknown) => error)

/** How often Redis was given this command. */
async function calls(redis: RedisStore, command: string): Promise<number> {
  const text = String(await redis.command(['INFO', 'commandstats']))
  return Number(new RegExp(`cmdstat_${command}:calls=(\\d+)`).exec(text)?.[1] ?? 0)
}

describe('createRedis', () => {
  it('refuses a wrong URL without repeating it, and wrong options', () => {
    for (const url of [
      '',
      'localhost:6379',
      'redis://',
      'http://user:canary@localhost',
      'redis://u:canary@[bad',
      'redis://u:canary@h/db',
      'redis://u:100%canary@h',
      'redis://canary%zz:p@h',
      undefined as never
    ]) {
      expect(() => createRedis({ url })).toThrow(TypeError)
      expect(() => createRedis({ url })).not.toThrow(/canary/)
    }
    expect(() => createRedis({ url: 'redis://u:100%canary@h' })).toThrow(/percent-encoded.*encodeURIComponent/)
    expect(() => createRedis({ url: 'redis://h', commandTimeoutMs: 0 })).toThrow(/commandTimeoutMs/)
    expect(() => createRedis({ url: 'redis://h', connectTimeoutMs: Number.NaN })).toThrow(/connectTimeoutMs/)
    expect(() => createRedis({ url: 'redis://h', namespace: '' })).toThrow(/namespace/)
    expect(() => createRedis({ url: 'redis://h', timeout: 1 } as never)).toThrow(/no option "timeout"/)
  })

  it('rejects at once while there is no Redis, says why, and shows its password nowhere', async () => {
    const redis = rig.door('redis://canary-user:canary-password@127.0.0.1:1/3')
    await until(() => redis.stats().connectionErrors > 1)
    for (const work of [redis.get('k'), redis.getMany(['k']), redis.set('k', 'v'), redis.delete('k'), redis.command(['PING'])]) {
      const error = await thrown(work)
      expect(isMillraceError(error, 'network') && error.details).toMatchObject({ phase: 'connect', errno: 'ECONNREFUSED' })
      expect(inspect({ redis, error, stats: redis.stats() }, { depth: 10, showHidden: true })).not.toContain('canary')
    }
    expect(redis.ready).toBe(false)
    redis.distrust()
  })

  it('never hangs on a server that accepts and says nothing, and lets go of it on close', async () => {
    const sockets = new Set<Socket>()
    const silent = createServer((socket) => {
      sockets.add(socket)
      socket
        .resume()
        .on('close', () => sockets.delete(socket))
        .on('error', () => {})
    })
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve))
    const { port } = silent.address() as { port: number }
    const redis = rig.door(`redis://127.0.0.1:${port}`, { connectTimeoutMs: 50 })
    await until(() => redis.stats().connectionErrors >= 2)
    expect(String(await thrown(redis.get('k')))).toContain('connectTimeoutMs')
    await redis.close()
    await until(() => sockets.size === 0)
    await new Promise((resolve) => silent.close(resolve))
    expect(isMillraceError(await thrown(redis.get('k')), 'closed')).toBe(true)
    expect(isMillraceError(await thrown(redis.command(['PING'])), 'closed')).toBe(true)
  })
})

describe.skipIf(skip)('a door to a real Redis', () => {
  it('keeps texts under its namespace, for their time', async () => {
    const redis = await rig.opened((await rig.server()).url)
    expect(await redis.get('k')).toBeUndefined()
    expect(await redis.set('k', 'vé\u{1f600}', 5000.4)).toBe(true)
    expect(await redis.set('for ever', '')).toBe(true)
    expect(await redis.set('over', 'x', -1)).toBe(true)
    expect(await redis.set('long', 'x', Number.POSITIVE_INFINITY)).toBe(true)
    expect(await redis.get('k')).toBe('vé\u{1f600}')
    expect(await redis.command(['PTTL', 'millrace::k'])).toSatisfy((ms: number) => ms > 3000 && ms <= 5001)
    expect(await redis.command(['PTTL', 'millrace::for ever'])).toBe(-1)
    await until(async () => (await redis.get('over')) === undefined)
    expect(await redis.getMany(['for ever', 'none', 'long'])).toEqual(['', undefined, 'x'])
    expect(await redis.getMany([])).toEqual([])
    expect([await redis.delete('k'), await redis.delete('k')]).toEqual([true, false])
  })

  it('makes 100 reads that are asked for together four commands, each with its own value', async () => {
    const redis = await rig.opened((await rig.server()).url)
    await Promise.all(Array.from({ length: 50 }, (_, n) => redis.set(`k${n}`, `v${n}`)))
    const guard = guardStore(redis, { timeoutMs: 5000 })
    const before = await calls(redis, 'mget')
    const values = await Promise.all(Array.from({ length: 100 }, (_, n) => guard.read(`k${n}`)))
    expect(values).toEqual(Array.from({ length: 100 }, (_, n) => (n < 50 ? `v${n}` : undefined)))
    expect(await calls(redis, 'mget')).toBe(before + 4)
    await guard.drain()
  })

  it('has a key of another type harm no other, and be replaced by a write', async () => {
    const redis = await rig.opened((await rig.server()).url)
    await redis.set('good', 'v')
    await redis.command(['LPUSH', 'millrace::list', 'canary'])
    expect(await Promise.all([redis.get('list'), redis.get('good')])).toEqual([undefined, 'v'])
    await redis.set('list', 'w')
    expect(await redis.get('list')).toBe('w')
    expect(redis.stats().commandErrors).toBe(0)
  })

  it('tells what Redis refused by its word alone', async () => {
    const redis = await rig.opened((await rig.server()).url)
    await redis.command(['LPUSH', 'list', 'canary'])
    const error = await thrown(redis.command(['GET', 'list']))
    expect(isMillraceError(error, 'unavailable') && error.details).toEqual({ providerCode: 'WRONGTYPE' })
    expect(inspect(await thrown(redis.command(['NOSUCH', 'canary'])))).not.toContain('canary')
    expect(redis.stats().commandErrors).toBe(2)
    for (const args of ['PING', [1], undefined]) {
      expect(await thrown(redis.command(args as never))).toBeInstanceOf(TypeError)
    }
    expect(await redis.command(['PING'])).toBe('PONG')
    expect(redis.stats().connections).toBe(1)
  })

  it('clears its own namespace and nothing that only looks like it', async () => {
    const redis = await rig.opened((await rig.server()).url, { namespace: 'a*[b]?' })
    const theirs = ['ab::k', 'a*[b]?:k', 'aXb?::k', 'a*bX::k', 'theirs']
    for (const key of theirs) await redis.command(['SET', key, 'x'])
    await Promise.all(Array.from({ length: 2500 }, (_, n) => redis.set(`k${n}`, 'x')))
    await redis.clear()
    expect(((await redis.command(['KEYS', '*'])) as string[]).toSorted()).toEqual(theirs.toSorted())
  })

  it('is a storage adapter for Keyv, and shares its keys with KeyvRedis', async () => {
    const { url } = await rig.server()
    const redis = await rig.opened(url)
    const ours = new Keyv({ store: redis as never, useKeyPrefix: false })
    const adapter = new KeyvRedis(url, { namespace: 'millrace' })
    rig.owns({ close: () => adapter.disconnect() })
    const theirs = new Keyv({ store: adapter, namespace: 'millrace', useKeyPrefix: false })
    for (const [writer, reader] of [
      [ours, theirs],
      [theirs, ours],
      [ours, ours]
    ] as const) {
      const key = randomUUID()
      expect(await writer.set(key, { deep: [1] }, 60_000)).toBe(true)
      expect(await reader.get(key)).toEqual({ deep: [1] })
      expect(await reader.getMany([key, 'none'])).toEqual([{ deep: [1] }, undefined])
      expect(await redis.command(['PTTL', `millrace::${key}`])).toBeGreaterThan(50_000)
      expect(await reader.has(key)).toBe(true)
      expect(await reader.delete(key)).toBe(true)
      expect(await writer.get(key)).toBeUndefined()
    }
    await redis.set('plain', 'text of ours')
    expect(await adapter.get('plain')).toBe('text of ours')
    await ours.set('short', 1, 20)
    await until(async () => (await ours.get('short')) === undefined)
    await ours.set('k', 1)
    await ours.clear()
    expect(await redis.command(['DBSIZE'])).toBe(0)
  })

  it('counts through a Keyv what a Redis out of memory refuses', async () => {
    const { url } = await rig.server({ args: ['--maxmemory', '1', '--maxmemory-policy', 'noeviction'] })
    const keyv = new Keyv({ store: (await rig.opened(url)) as never })
    const guard = guardStore(keyv, { timeoutMs: 1000 })
    expect(await guard.put('k', 'v')).toBe(false)
    expect(guard).toMatchObject({ errors: 1, writesRefused: 1, available: true })
    await guard.drain()
  })

  it('drops a connection whose replies are shifted, once it is told of a value that was not asked for', async () => {
    const { port } = await rig.server()
    const proxy = rig.owns(await startRedisProxy(port))
    const redis = await rig.opened(proxy.url, { commandTimeoutMs: 5000 })
    await redis.set('a', 'A')
    await redis.set('b', 'B')
    redis.distrust()
    redis.distrust()
    await redis.command(['PING'])
    expect(redis.stats().connections).toBe(1) // one that replies as it should stays

    proxy.mischief = 'swallow'
    const a = redis.get('a')
    await until(() => proxy.mischief === 'none')
    const b = thrown(redis.get('b'))
    expect(await a).toBe('B') // the fault that nothing on the connection shows: an entry's own seal does
    redis.distrust()
    expect(isMillraceError(await b)).toBe(true)
    await until(() => redis.ready && redis.stats().connections === 2)
    expect(await redis.getMany(['a', 'b'])).toEqual(['A', 'B'])
  })

  it('drops a connection where a reply does not fit its command', async () => {
    const { port } = await rig.server()
    const proxy = rig.owns(await startRedisProxy(port))
    const redis = await rig.opened(proxy.url, { commandTimeoutMs: 5000 })
    proxy.mischief = 'swallow'
    const lost = thrown(redis.get('a'))
    await until(() => proxy.mischief === 'none')
    const written = thrown(redis.set('b', 'B'))
    const error = await lost
    expect(isMillraceError(error, 'protocol') && error.details.reason).toBe('unexpected')
    expect(isMillraceError(await written, 'network')).toBe(true)
    await until(() => redis.ready)
    expect(redis.stats()).toMatchObject({ connections: 2, connectionErrors: 1 })
  })

  it('drops a frozen connection after three timeouts, and takes no new one before the server speaks', async () => {
    const frozen = await rig.server()
    const redis = await rig.opened(frozen.url, { commandTimeoutMs: 50 })
    frozen.pause()
    for (let call = 0; call < 3; call++) expect(isMillraceError(await thrown(redis.get('k')), 'timeout')).toBe(true)
    expect(redis.ready).toBe(false)
    expect(isMillraceError(await thrown(redis.get('k')), 'network')).toBe(true)
    frozen.resume()
    await until(() => redis.ready)
    expect(await redis.set('k', 'v')).toBe(true)
    expect(redis.stats()).toMatchObject({ timeouts: 3, connections: 2 })
  })

  it('bounds the commands under way', async () => {
    const frozen = await rig.server()
    const redis = await rig.opened(frozen.url, { commandTimeoutMs: 5000 })
    frozen.pause()
    const work = Array.from({ length: 10_000 }, () => thrown(redis.command(['PING'])))
    const error = await thrown(redis.command(['PING']))
    expect(isMillraceError(error, 'queue-full') && error.details.limit).toBe(10_000)
    frozen.resume()
    expect(new Set(await Promise.all(work))).toEqual(new Set(['PONG']))
  })

  it('is open to a user who may read and write and nothing else', async () => {
    const { url } = await rig.server()
    const admin = await rig.opened(url)
    await admin.command(['ACL', 'SETUSER', 'app', 'on', '>word', '~millrace::*', '-@all', '+mget', '+set'])
    const redis = await rig.opened(url.replace('//', '//app:word@'))
    await redis.set('k', 'v')
    expect(await redis.get('k')).toBe('v')
    const error = await thrown(redis.delete('k'))
    expect(isMillraceError(error, 'unavailable') && error.details.providerCode).toBe('NOPERM')
    redis.distrust()
    await until(() => redis.stats().commandErrors === 2)
    expect(await redis.get('k')).toBe('v')
    expect(redis.stats().connections).toBe(1)
  })

  it('says of a wrong password that it is one, and tries again', async () => {
    const { port } = await rig.server({ args: ['--requirepass', 'right'] })
    const wrong = rig.door(`redis://:canary@127.0.0.1:${port}`)
    const none = rig.door(`redis://127.0.0.1:${port}`)
    await until(() => wrong.stats().connectionErrors >= 2 && none.stats().connectionErrors >= 2)
    expect(String(await thrown(wrong.get('k')))).toContain('WRONGPASS')
    expect(String(await thrown(none.get('k')))).toContain('NOAUTH')
    expect(inspect(wrong, { depth: 9, showHidden: true })).not.toContain('canary')
    expect(wrong.stats().connections + none.stats().connections).toBe(0)
  })

  it('closes a frozen connection after the time of its commands, and lets reads end that were asked for just before', async () => {
    const frozen = await rig.server()
    const redis = await rig.opened(frozen.url, { commandTimeoutMs: 100 })
    const last = redis.get('k')
    const other = await rig.opened(frozen.url, { commandTimeoutMs: 100 })
    expect(await last).toBeUndefined()
    const read = redis.get('k')
    await redis.close()
    expect(await read).toBeUndefined()
    frozen.pause()
    const command = thrown(other.command(['PING']))
    const at = performance.now()
    await other.close()
    expect(performance.now() - at).toBeLessThan(1500)
    expect(isMillraceError(await command, 'timeout')).toBe(true)
    frozen.resume()
  })

  it('leaves neither timers nor sockets behind, and closes twice', async () => {
    const { url } = await rig.server()
    const leaks = probeLeaks()
    for (let round = 0; round < 20; round++) {
      const redis = createRedis({ url })
      await until(() => redis.ready)
      await redis.set('k', 'v')
      await redis.get('k')
      await Promise.all([redis.close(), redis.close()])
    }
    for (let turns = 0; turns < 10; turns++) {
      const early = createRedis({ url })
      for (let turn = 0; turn < turns; turn++) await tick()
      await early.close()
    }
    await leaks.check()
    const watcher = await rig.opened(url)
    await until(
      async () =>
        String(await watcher.command(['CLIENT', 'LIST']))
          .trim()
          .split('\n').length === 1
    )
  })
})
