import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import type { Program } from './debian-package.ts'

/** So slow a start has failed. */
const startMs = 30_000

/** A server that a test started; its folder goes with it. */
export interface ServerProcess {
  readonly child: ChildProcess
  /** What `ready` matched in its output. */
  readonly match: RegExpExecArray
  /** Ends it at once, as a crash would. */
  kill(): Promise<void>
  /** Ends it in order, and kills it after 2 s. Safe after `kill`. */
  stop(): Promise<void>
}

/**
 * Starts a server with a temporary folder of its own and waits until its output matches. Both go with this process, however
 * that ends.
 *
 * @throws {Error} with what the server wrote, when it does not start
 */
export async function launchServer(
  { path, env }: Program,
  prepare: (folder: string) => readonly string[] | Promise<readonly string[]>,
  ready: RegExp
): Promise<ServerProcess> {
  const name = basename(path)
  const folder = await mkdtemp(join(tmpdir(), `millrace-${name}-`))
  const child = spawn(path, await prepare(folder), { env, stdio: ['ignore', 'pipe', 'pipe'] })
  const killNow = (): void => void child.kill('SIGKILL')
  const dismiss = child.pid === undefined ? undefined : postGuard(child.pid, folder)
  const ended = new Promise<void>((resolve) => {
    child.once('close', () => resolve())
    child.once('error', () => resolve())
  }).then(async () => {
    await dismiss?.()
    await rm(folder, { recursive: true, force: true })
  })
  const late = setTimeout(killNow, startMs)
  const match = await untilReady(name, child, ready).finally(() => clearTimeout(late))

  async function kill(): Promise<void> {
    killNow()
    await ended
  }
  async function stop(): Promise<void> {
    // A paused one hears nothing else.
    child.kill('SIGCONT')
    child.kill('SIGTERM')
    const impatient = setTimeout(killNow, 2000)
    await ended
    clearTimeout(impatient)
  }
  return { child, match, kill, stop }
}

/**
 * A test runner kills its workers without an `exit` event. So a shell waits at a pipe that closes with this process, then
 * kills the server and removes its folder.
 */
function postGuard(pid: number, folder: string): () => Promise<void> {
  const script = 'cat > /dev/null; kill -9 "$1"; rm -rf "$2"'
  const guard = spawn('sh', ['-c', script, 'sh', `${pid}`, folder], { detached: true, stdio: ['pipe', 'ignore', 'ignore'] })
  const gone = new Promise<void>((resolve) => {
    guard.once('close', () => resolve())
    // Without a shell there is no guard, and nothing to dismiss.
    guard.once('error', () => resolve())
  })
  return async () => {
    guard.kill('SIGKILL')
    await gone
  }
}

function untilReady(name: string, child: ChildProcess, ready: RegExp): Promise<RegExpExecArray> {
  let output = ''
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', () => reject(new Error(`${name} did not start: ${output.trim()}`)))
    // Both are read to the end: a full pipe would stop the server.
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => {
        output = (output + text).slice(-16_000)
        const match = ready.exec(output)
        if (match !== null) resolve(match)
      })
    }
  })
}
