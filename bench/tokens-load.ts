// What it costs to have a counter: time, memory, and how long the process is blocked. From the built files: run `pnpm build` first.
import { start } from './programs.ts'
import { printTable } from './tables.ts'
import { counters, ours } from './tokens-counters.ts'
import type { Loaded } from './tokens-load-main.ts'
import { type Flags, judge, spread } from './tokens-race.ts'

const goals = { ms: 200, rssMB: 85, blockMs: 50, importMB: 10 }
const ready = 'await tokenizer.ready()'

/** In so many fresh processes each: the number of processes times that of the rounds. */
export async function load({ processes, rounds, only }: Flags): Promise<void> {
  const names = [ours, ready, ...Object.keys(counters).filter((name) => name !== ours && !name.endsWith('again'))]
  const taken = new Map(names.filter((name) => only?.includes(name) ?? true).map((name) => [name, [] as Loaded[]]))
  if (taken.size === 0) return
  // Round 0 brings the files into the system's memory.
  for (let round = 0; round <= processes * rounds; round++) {
    for (const [name, samples] of taken) {
      const args = name === ready ? [ours, 'ready'] : [name, 'first count']
      await using child = await start('tokens-load-main.ts', args, { built: true, flags: ['--expose-gc'] })
      if (round > 0) samples.push(child.hello as Loaded)
    }
  }
  console.log('\nFrom nothing to the first count, in a fresh process, from the built files\n')
  printTable(
    [
      'subject',
      'import alone, ms',
      'RSS, MB',
      'to the first count, ms',
      'RSS, MB',
      'live heap, MB',
      'longest block after import, ms',
      'goals'
    ],
    [...taken].map(([name, samples]) => {
      const of = (key: keyof Loaded): number[] => samples.map((sample) => sample[key])
      const shown = (['importMs', 'importMB', 'ms', 'rssMB', 'heapMB', 'blockMs'] as const).map((key) => spread(of(key)))
      return [name, ...shown, goalsOf(name, of).join('; ')]
    })
  )
}

function goalsOf(name: string, of: (key: keyof Loaded) => readonly number[]): readonly string[] {
  if (name === ready) return [judge('block, ms', of('blockMs'), { atMost: goals.blockMs })]
  if (name !== ours) return []
  return [
    judge('import, MB', of('importMB'), { atMost: goals.importMB }),
    judge('ms', of('ms'), { atMost: goals.ms }),
    judge('RSS, MB', of('rssMB'), { atMost: goals.rssMB })
  ]
}
