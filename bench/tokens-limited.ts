// Programs that may take longer than anybody wants to wait.
import { fork } from 'node:child_process'
import { once } from 'node:events'

export interface Heard {
  readonly said: readonly unknown[]
  /** It was silent for longer than it may, and was stopped. */
  readonly late: boolean
}

/** What a file of this folder says until it ends, or is silent for more than `limitMs`. */
export async function listen(file: string, args: readonly string[], limitMs: number): Promise<Heard> {
  const env = { ...process.env, LANGCHAIN_TRACING_V2: 'false', LANGSMITH_TRACING: 'false' }
  const child = fork(new URL(file, import.meta.url), args, { env, execArgv: ['--conditions=@millrace/source'] })
  const said: unknown[] = []
  const timer = setTimeout(() => child.kill('SIGKILL'), limitMs)
  child.on('message', (message) => {
    said.push(message)
    timer.refresh()
  })
  const [code, signal] = await once(child, 'exit')
  clearTimeout(timer)
  if (code !== 0 && signal !== 'SIGKILL') throw new Error(`${file} ${args.join(' ')} ended with ${code ?? signal}`)
  return { said, late: signal === 'SIGKILL' }
}

/** Two at a time, for the machine has two cores; in the order of the jobs. */
export async function byTwo<Result>(jobs: readonly (() => Promise<Result>)[]): Promise<readonly Result[]> {
  const results: Result[] = []
  let next = 0
  async function work(): Promise<void> {
    for (let job = jobs[next]; job !== undefined; job = jobs[next]) {
      const index = next++
      results[index] = await job()
    }
  }
  await Promise.all([work(), work()])
  return results
}
