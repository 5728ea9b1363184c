// How much of a limit is used, and how much over it. Flags: --only=name,name
import { perSecond } from './limits-accuracy-subjects.ts'
import { start } from './programs.ts'
import { printTable } from './tables.ts'

export interface Case {
  readonly subject: string
  readonly processes: number
  /** Of a Redis; none in memory. */
  readonly url?: string
}

const seconds = 10
const goal = 0.01

export async function accuracy(cases: readonly Case[]): Promise<void> {
  const rows: string[][] = []
  for (const { subject, processes, url = '' } of cases) {
    await using stack = new AsyncDisposableStack()
    // No case has a limit that another one has used.
    const args = [subject, `accuracy ${rows.length}`, url]
    const programs = await Promise.all(Array.from({ length: processes }, () => start('limits-accuracy-main.ts', args)))
    for (const program of programs) stack.use(program)
    const told = await Promise.all(programs.map((program) => program.ask({ concurrency: 50, ms: seconds * 1000 })))
    const ours = !subject.startsWith('p-')
    // A bucket that is full when all begin holds a second's worth more.
    const allowed = perSecond * (ours ? seconds + 1 : seconds)
    const granted = told.reduce((sum, { units }) => sum + units, 0)
    const off = granted / allowed - 1
    rows.push([
      url === '' ? subject : `${subject} over Redis`,
      `${processes}`,
      granted.toLocaleString('en'),
      allowed.toLocaleString('en'),
      `${(off * 100).toFixed(2)} %`,
      ours ? `within ${goal * 100} %: ${Math.abs(off) <= goal ? 'met' : 'missed'}` : ''
    ])
  }
  if (rows.length === 0) return
  console.log(`\nGranted in ${seconds} s by a limit of ${perSecond} a second; 50 ask in each process\n`)
  printTable(['subject', 'processes', 'granted', 'of', 'off', 'goal'], rows)
}
