import { mkdirSync, statSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { startBrowser } from '@millrace/testkit'
import { readConfig } from './src/config.ts'
import { startService } from './src/service.ts'

/**
 * The pictures of the page in `docs/`: `node --conditions=@millrace/source apps/sample/screenshots.ts`. They show a minute
 * of the page's own load on the embedded provider, so each takes a minute; the dark one a fault as well.
 */
const looks = {
  light: { colorScheme: 'light', viewport: { width: 1440, height: 1630 } },
  phone: { colorScheme: 'light', viewport: { width: 390, height: 2420 }, isMobile: true, hasTouch: true },
  dark: { colorScheme: 'dark', viewport: { width: 1440, height: 1630 } }
} as const

const folder = fileURLToPath(new URL('../../docs/', import.meta.url))
mkdirSync(folder, { recursive: true })
const started = await startBrowser()
if (started.skip !== undefined) throw new Error(started.skip)
await using service = await startService(readConfig({ PORT: '0' }, '/'), {})
try {
  for (const [name, look] of Object.entries(looks)) {
    const context = await started.browser.newContext({ locale: 'en-GB', ...look })
    const page = await context.newPage()
    await page.goto(service.url)
    await page.waitForSelector('#connection[data-state="good"]')
    for (const load of [1, 2]) {
      await page.click('#load')
      // In the first half of the second load many ask at once, and two ask the same.
      await page.waitForTimeout(15_000)
      if (load === 2) {
        await page.click('#crowd')
        await page.waitForTimeout(6000)
        for (const nth of [0, 1, 1]) {
          await page.click(`#ready button >> nth=${nth}`)
          await page.waitForTimeout(3000)
        }
      }
      await page.waitForSelector('#load[aria-pressed="false"]', { timeout: 60_000 })
    }
    if (name === 'dark') {
      await page.locator('input[name="provider"][value="rate-limit"]').check()
      await page.click('#load')
      await page.waitForTimeout(9000)
      await page.click('#ready button >> nth=3')
      await page.waitForSelector('.answer:last-child[data-state="failed"]')
    }
    await page.waitForTimeout(1500)
    await page.evaluate('window.scrollTo(0, 0)')
    const path = `${folder}page-${name}.png`
    await page.screenshot({ path })
    if (name === 'dark') await page.click('#fault-off')
    console.log(`${path}: ${Math.round(statSync(path).size / 1024)} KiB`)
    await context.close()
  }
} finally {
  await started.close()
}
