import { defineConfig } from 'vitest/config'

// Tests and coverage run from source: no build comes before them.
const conditions = ['@millrace/source']

export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions } },
  test: {
    include: ['packages/*/test/**/*.test.ts', 'apps/*/test/**/*.test.ts', 'scripts/test/**/*.test.ts'],
    // On two cores Vitest takes one worker: most of these tests wait for servers, and leave the other core idle.
    maxWorkers: 2,
    testTimeout: 20_000,
    hookTimeout: 60_000,
    execArgv: ['--expose-gc']
  }
})
