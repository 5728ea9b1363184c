import { createServer } from 'node:net'
import type { Program } from './debian-package.ts'
import { listen } from './listen.ts'
import { findRedisProgram } from './redis-program.ts'
import { launchServer } from './server-process.ts'
import { skipUnlessCI } from './skip.ts'

export interface RedisOptions {
  /** @default a free one */
  readonly port?: number | undefined
  /** More arguments, such as `['--maxmemory', '10mb']`. @default [] */
  readonly args?: readonly string[] | undefined
}

/** A Redis of the test's own, empty, on loopback, that keeps nothing on disk. */
export interface RedisServer extends AsyncDisposable {
  /** `redis://127.0.0.1:PORT` */
  readonly url: string
  readonly port: number
  readonly pid: number
  /** Stops the process where it is: connections stay open and nothing answers. */
  pause(): void
  resume(): void
  /** Ends it at once, as a crash would. Start another on the same `port` to bring it back. */
  kill(): Promise<void>
  /** Ends it in order, and kills it after 2 s. Safe after `kill`. */
  stop(): Promise<void>
}

/**
 * Starts a Redis, or gives `undefined` where there is no `redis-server` and none can be unpacked.
 *
 * @throws {Error} with what the server wrote, when it does not start
 *
 * @example
 * const redis = await startRedis()
 * await redis?.stop()
 */
export async function startRedis(options: RedisOptions = {}): Promise<RedisServer | undefined> {
  return (await requireRedis(options)).server
}

/**
 * Starts a Redis, or says in one line why the tests that need it are skipped.
 *
 * @throws {Error} under CI (`CI` set in the environment), where a missing Redis is a failure
 *
 * @example
 * const { server, skip } = await requireRedis()
 * test.skipIf(skip !== undefined)('remembers across replicas', () => {})
 */
export async function requireRedis(
  options: RedisOptions = {}
): Promise<{ readonly server: RedisServer; readonly skip?: undefined } | { readonly server?: undefined; readonly skip: string }> {
  let program: Program
  try {
    program = await findRedisProgram()
  } catch (error) {
    return skipUnlessCI('Redis', error)
  }
  return { server: await launchFreely(program, options) }
}

/** Between finding a free port and Redis listening on it somebody else may take it: three tries. */
async function launchFreely(program: Program, { port, args = [] }: RedisOptions): Promise<RedisServer> {
  if (port !== undefined) return launch(program, port, args)
  for (let tries = 3; ; tries--) {
    try {
      return await launch(program, await freePort(), args)
    } catch (error) {
      if (tries === 1 || !/already in use/.test(String(error))) throw error
    }
  }
}

async function freePort(): Promise<number> {
  const server = createServer()
  const port = await listen(server)
  await new Promise((resolve) => server.close(resolve))
  return port
}

async function launch(program: Program, port: number, args: readonly string[]): Promise<RedisServer> {
  const own = ['--port', `${port}`, '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no']
  const { child, kill, stop } = await launchServer(
    program,
    (folder) => [...own, '--dir', folder, ...args],
    /Ready to accept connections/
  )
  return {
    url: `redis://127.0.0.1:${port}`,
    port,
    pid: child.pid as number,
    pause: () => void child.kill('SIGSTOP'),
    resume: () => void child.kill('SIGCONT'),
    kill,
    stop,
    [Symbol.asyncDispose]: stop
  }
}
