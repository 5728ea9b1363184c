import { afterAll, expect, test } from 'vitest'
import { startBrowser, startScriptedProvider } from '../src/index.ts'

const started = await startBrowser()
afterAll(() => started.browser?.close())

test.skipIf(started.skip)('a real browser shows what a real server sends', async () => {
  await using provider = await startScriptedProvider()
  const page = await started.browser?.newPage()
  await page?.goto(`${provider.url}/models`)
  expect(await page?.textContent('body')).toContain('scripted-large')
  await page?.close()
})
