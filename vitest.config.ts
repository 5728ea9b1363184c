import { defineConfig } from 'vitest/config'

// Tests and coverage run from source: no build comes before them.
const conditions = ['@millrace/source']

export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions } },
  test: {
    include: ['packages/*/test/**/*.test.ts', 'apps/*/test/**/*.test.ts', 'scripts/test/**/*.test.ts'],
    testTimeout: 20_000,
    hookTimeout: 60_000,
    execArgv: ['--expose-gc']
  }
})
