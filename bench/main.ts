// `pnpm bench` runs all files; `pnpm bench overhead` one, with its own flags behind it:
//
// overhead, cache:   --only=name,name --concurrency=50,200 --processes=3 --rounds=5 --ms=150 (see rig.ts)
// streaming:         the same, and --parts=event,packed,cut,memory,long,paused,stop
// telemetry:         the same, and --parts=busy,calls,streams
// batch:             the same, and --parts=makespan,cpu,memory,journal
// limits:            the same, and --parts=memory,redis,accuracy
// tokens:            --only=name,name --parts=load,count --texts=code --processes=2 --rounds=4 --ms=100; `pnpm build` first
// gateway:           --rounds=12 --ms=700 --concurrency=50, PORTKEY_GATEWAY=start-server.js; `pnpm build` first
// start:             --processes=15, on the built files: `pnpm build` first
// heap:              --calls=50000 --processes=1
// profile:           "adapter.complete" --of=overhead (cache: --at=redis) --concurrency=50 --ms=4000 --top=40 --keep=file.cpuprofile
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'

const all = ['overhead', 'streaming', 'cache', 'batch', 'limits', 'telemetry', 'tokens', 'gateway', 'start', 'heap']
const known = [...all, 'profile']
const [name, ...args] = process.argv.slice(2)
if (name !== undefined && !known.includes(name))
  throw new TypeError(`there is no bench/${name}.ts; name one of ${known.join(', ')}`)

console.log(`Node ${process.version}. Read the ratios: both sides of each were measured within the same second.`)
for (const file of name === undefined ? all : [name]) {
  const { status } = spawnSync(process.execPath, [...process.execArgv, join(import.meta.dirname, `${file}.ts`), ...args], {
    stdio: 'inherit'
  })
  if (status !== 0) process.exitCode = 1
}
