import { inspect } from 'node:util'
import { expect, test } from 'vitest'
import { readConfig } from '../src/config.ts'
import { startService } from '../src/service.ts'

test('the keys that a service was given are not in what it shows', async () => {
  const env = {
    PORT: '0',
    OPENAI_API_KEY: 'key-of-the-provider',
    OPENAI_BASE_URL: 'http://127.0.0.1:1/v1',
    MILLRACE_TOKEN: 'letmein-letmein-letmein'
  }
  await using service = await startService(readConfig(env), env)
  for (const shown of [inspect(service, { depth: 9, showHidden: true }), JSON.stringify(service)]) {
    expect(shown).toContain('http://127.0.0.1:1/v1')
    expect(shown).not.toMatch(/key-of-the-provider|letmein/)
  }
})
