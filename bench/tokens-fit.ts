// What it costs to fit a history of 1,000 messages of 400 bytes into 8,000 tokens, and to count a request of 20 messages of 800.
import { start } from './programs.ts'
import { median, printTable } from './tables.ts'
import { ours } from './tokens-counters.ts'
import { budget } from './tokens-history.ts'
import { byTwo, listen } from './tokens-limited.ts'
import { digits, type Flags, judge, spread } from './tokens-race.ts'

const goals: Readonly<Record<string, number>> = { 'fit, first call': 1.5, 'fit, next call': 0.2 }
const limitMs = 10_000

interface Timed {
  readonly fitting: readonly string[]
  readonly counting: readonly string[]
  /** Of each step, microseconds by round. */
  readonly us: Readonly<Record<string, readonly number[]>>
}

/** In each process ten times as many rounds as of the others: they take milliseconds. */
export async function fitting({ processes, rounds, only }: Flags): Promise<void> {
  if (only?.includes(ours) ?? true) {
    const timed: Timed[] = []
    for (let fresh = 0; fresh < processes; fresh++) {
      await using child = await start('tokens-fit-main.ts', [String(rounds * 10)])
      timed.push(child.hello as Timed)
    }
    const us = (name: string): readonly number[] => timed.flatMap((each) => each.us[name] ?? [])
    console.log(`\nA history of 1,000 messages of 400 bytes, to be fitted into ${budget} tokens\n`)
    printSteps(timed[0]?.fitting ?? [], us)
    console.log('\nA request of 20 messages of 800 bytes, to be counted\n')
    printSteps(timed[0]?.counting ?? [], us)
  }
  const over = [ours, 'gpt-tokenizer', 'tiktoken'].filter((name) => only?.includes(name) ?? true)
  if (over.length === 0) return
  console.log(`\nThe same history in LangChain's trimMessages, one call\n`)
  const rows = over.map((name) => async () => {
    const { said, late } = await listen('tokens-trim-main.ts', [name], limitMs)
    const trimmed = said[1] as { readonly ms: number; readonly kept: number } | undefined
    return [name, late || trimmed === undefined ? `> ${limitMs}` : trimmed.ms.toFixed(0), String(trimmed?.kept ?? '')]
  })
  printTable(['its counter over', 'ms', 'messages kept'], await byTwo(rows))
}

/** Against the first of them, round by round. */
function printSteps(names: readonly string[], us: (name: string) => readonly number[]): void {
  const [base = ''] = names
  printTable(
    ['subject', 'us', `times the ${base}`, 'goal'],
    names.map((name) => {
      const ratios = us(name).map((value, index) => value / (us(base)[index] as number))
      const atMost = goals[name]
      return [name, digits(median(us(name))), spread(ratios), atMost === undefined ? '' : judge('times', ratios, { atMost })]
    })
  )
}
