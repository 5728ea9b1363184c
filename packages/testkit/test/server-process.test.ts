import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { expect, it } from 'vitest'
import { probeLeaks } from '../src/index.ts'
import { launchServer } from '../src/server-process.ts'
import { becomes } from './support.ts'

const node = { path: process.execPath, env: process.env }
const server = (script: string) => (folder: string) => ['-e', script, folder]

function runs(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch {
    // ESRCH: there is no such process.
    return false
  }
}

it('starts a server, gives what its output said, and leaves neither process nor folder nor guard', async () => {
  const probe = probeLeaks()
  let folder = ''
  const { child, match, stop, kill } = await launchServer(
    node,
    (own) => {
      folder = own
      return ['-e', "console.error('port 7'); setInterval(() => {}, 1000)"]
    },
    /port (\d)/
  )
  expect(match[1]).toBe('7')
  expect(existsSync(folder)).toBe(true)
  await stop()
  await kill()
  expect([runs(child.pid as number), existsSync(folder)]).toEqual([false, false])
  await probe.check()
})

it('says what a server wrote that did not start', async () => {
  await expect(launchServer(node, server("console.error('no such option')"), /ready/)).rejects.toThrow(
    'node did not start: no such option'
  )
  await expect(launchServer({ path: '/nowhere/server', env: {} }, () => [], /ready/)).rejects.toThrow('ENOENT')
})

it('ends a server whose test was killed, and removes its folder', async () => {
  const source = new URL('../src/server-process.ts', import.meta.url)
  const program = `
    import { launchServer } from '${source.href}'
    const script = "console.log('at ' + process.argv[1]); setInterval(() => {}, 1000)"
    const { child, match } = await launchServer({ path: process.execPath, env: process.env }, (own) => ['-e', script, own], /at (.*)\\n/)
    console.log(JSON.stringify({ pid: child.pid, folder: match[1] }))`
  const test = spawn(process.execPath, ['--input-type=module', '-e', program], { stdio: ['ignore', 'pipe', 'inherit'] })
  const [line] = await once(test.stdout, 'data')
  const { pid, folder } = JSON.parse(String(line)) as { pid: number; folder: string }
  expect([runs(pid), existsSync(folder)]).toEqual([true, true])
  test.kill('SIGKILL')
  await becomes(() => runs(pid), false)
  await becomes(() => existsSync(folder), false)
})
