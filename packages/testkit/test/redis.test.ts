import { once } from 'node:events'
import { connect } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { expect, it, test } from 'vitest'
import { probeLeaks, type RedisServer, requireRedis, startRedis } from '../src/index.ts'

const probe = probeLeaks()
const { server, skip } = await requireRedis()
const redis = server as RedisServer

async function ping(port: number, withinMs = 2000): Promise<string> {
  const socket = connect(port, '127.0.0.1')
  try {
    socket.write('PING\r\n')
    const answer = once(socket, 'data').then(([bytes]) => String(bytes))
    return await Promise.race([answer, delay(withinMs, 'silence', { ref: false })])
  } finally {
    socket.destroy()
  }
}

test.skipIf(skip)('a Redis answers, is silent while paused, and answers again', async () => {
  expect(await ping(redis.port)).toBe('+PONG\r\n')
  redis.pause()
  const silence = await ping(redis.port, 100)
  redis.resume()
  expect(silence).toBe('silence')
  expect(await ping(redis.port)).toBe('+PONG\r\n')
  expect(redis.url).toBe(`redis://127.0.0.1:${redis.port}`)
})

test.skipIf(skip)('a killed Redis can be brought back on its port', async () => {
  await using first = (await startRedis()) as RedisServer
  await first.kill()
  await expect(ping(first.port)).rejects.toThrow(/ECONNREFUSED|ECONNRESET/)
  await using second = (await startRedis({ port: first.port })) as RedisServer
  expect(await ping(second.port)).toBe('+PONG\r\n')
})

test.skipIf(skip)('a port in use fails with what the server said', async () => {
  await expect(startRedis({ port: redis.port })).rejects.toThrow(/already in use/)
})

test.skipIf(skip)('a stopped Redis leaves no process and nothing else, even when it was paused', async () => {
  redis.pause()
  await redis.stop()
  await redis.stop()
  expect(() => process.kill(redis.pid, 0)).toThrow(/ESRCH/)
  await probe.check()
})

it('says how to get a Redis where REDIS_SERVER does not run, and fails under CI', async () => {
  const { REDIS_SERVER, CI } = process.env
  try {
    process.env.REDIS_SERVER = '/nowhere/redis-server'
    process.env.CI = ''
    expect((await requireRedis()).skip).toMatch(/need Redis are skipped: REDIS_SERVER is .* apt-get install redis-server/)
    expect(await startRedis()).toBeUndefined()
    process.env.CI = 'true'
    await expect(requireRedis()).rejects.toThrow(/REDIS_SERVER/)
  } finally {
    Object.assign(process.env, { REDIS_SERVER, CI })
    if (REDIS_SERVER === undefined) delete process.env.REDIS_SERVER
    if (CI === undefined) delete process.env.CI
  }
})
