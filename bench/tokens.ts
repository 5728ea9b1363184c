// What it costs to count tokens: to load a counter, to count texts of three kinds and hostile ones, to keep a running total of a
// stream, to fit a long history; beside the libraries that do the same. All in o200k_base.
// Flags: --processes=2 --rounds=4 --ms=100 --only=name,name (of subjects) --parts=load,count,hostile,stream,fit --texts=code,
// which leaves out what has no such word in its title. The first part runs the built files: `pnpm build` first.
import { counting } from './tokens-count.ts'
import { fitting } from './tokens-fit.ts'
import { hostile } from './tokens-hostile.ts'
import { load } from './tokens-load.ts'
import { readFlags } from './tokens-race.ts'
import { streaming } from './tokens-stream.ts'

const parts = { load, count: counting, hostile, stream: streaming, fit: fitting }
const flags = readFlags()
for (const part of flags.parts ?? []) {
  if (!(part in parts)) throw new TypeError(`there is no part ${part}; name some of ${Object.keys(parts).join(', ')}`)
}
for (const [name, run] of Object.entries(parts)) if (flags.parts?.includes(name) ?? true) await run(flags)
