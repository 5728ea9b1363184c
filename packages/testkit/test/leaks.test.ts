import { connect, createServer } from 'node:net'
import { expect, it } from 'vitest'
import { heapAfterGc, probeLeaks } from '../src/index.ts'
import { listen } from '../src/listen.ts'

it('names what was left open, and passes when it is closed', async () => {
  const probe = probeLeaks({ settleMs: 50 })
  const server = createServer((socket) => void socket.on('error', () => {}).resume())
  const socket = connect(await listen(server), '127.0.0.1')
  const timer = setTimeout(() => {}, 60_000)
  await expect(probe.check()).rejects.toThrow(/TCPServerWrap/)
  await expect(probe.check()).rejects.toThrow(/TCPSocketWrap/)
  await expect(probe.check()).rejects.toThrow(/Timeout/)
  clearTimeout(timer)
  socket.destroy()
  server.close()
  await probeLeaks().check()
})

it('waits for what is being closed', async () => {
  const probe = probeLeaks()
  setTimeout(() => {}, 60)
  await expect(probe.check()).resolves.toBeUndefined()
})

it('sees garbage go and held memory stay', async () => {
  const before = await heapAfterGc()
  let held: unknown[] | undefined = Array.from({ length: 200_000 }, (_, index) => ({ index }))
  const during = await heapAfterGc()
  expect(during - before).toBeGreaterThan(4_000_000)
  expect(held.length).toBe(200_000)
  held = undefined
  expect((await heapAfterGc()) - before).toBeLessThan(2_000_000)
})
