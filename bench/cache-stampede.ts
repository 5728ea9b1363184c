// How many upstream calls many equal questions cost when nobody has the answer yet. Flags: --rounds=5 --only=name,name
import { parseArgs } from 'node:util'
import { start } from './programs.ts'
import { median, printTable } from './tables.ts'

export interface Stampede {
  readonly title: string
  /** `memory`, or the URL of a Redis. */
  readonly where: string
  readonly processes: number
  /** In each process. */
  readonly askers: number
  readonly subjects: readonly string[]
  /** Of which one call is demanded. */
  readonly ours: readonly string[]
}

export async function stampede({ title, where, processes, askers, subjects, ours }: Stampede): Promise<void> {
  const flags = { rounds: { type: 'string', default: '5' }, only: { type: 'string' } } as const
  const { values } = parseArgs({ options: flags, strict: false })
  const only = typeof values.only === 'string' ? values.only.split(',') : undefined
  const rows: string[][] = []
  for (const subject of subjects.filter((name) => only?.includes(name) ?? true)) {
    const calls: number[] = []
    const seconds: number[] = []
    const cpuUs: number[] = []
    await using stack = new AsyncDisposableStack()
    const programs = await Promise.all(Array.from({ length: processes }, () => start('cache-stampede-main.ts', [subject, where])))
    for (const program of programs) stack.use(program)
    // Round 0 opens what is opened late, and lets the compiler see the code.
    for (let round = 0; round <= Number(values.rounds); round++) {
      const samples = await Promise.all(programs.map((program) => program.ask({ concurrency: askers, ms: 0 })))
      if (round === 0) continue
      calls.push(samples.reduce((sum, { units }) => sum + units, 0))
      seconds.push(Math.max(...samples.map((sample) => sample.seconds)))
      cpuUs.push(samples.reduce((sum, sample) => sum + sample.cpuUs, 0) / (processes * askers))
    }
    const [least, most] = [Math.min(...calls), Math.max(...calls)]
    rows.push([
      subject,
      least === most ? `${most}` : `${least} to ${most}`,
      (median(seconds) * 1000).toFixed(0),
      median(cpuUs).toFixed(1),
      ours.includes(subject) ? `1 call: ${most === 1 && least === 1 ? 'met' : 'missed'}` : ''
    ])
  }
  if (rows.length === 0) return
  console.log(`\n${title}\n`)
  printTable(['subject', 'upstream calls', 'ms until all have it', 'CPU, us an asker', 'goal'], rows)
}
