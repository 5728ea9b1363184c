import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'

const folder = new URL('../../../packages/telemetry/dashboards/', import.meta.url)

export interface Dashboard {
  readonly uid?: string
  readonly templating: { readonly list: readonly { name: string; type: string; definition?: string }[] }
  readonly panels: readonly Panel[]
}

export interface Panel {
  readonly id: number
  readonly type: string
  readonly title: string
  readonly description?: string
  readonly datasource?: { readonly type: string; readonly uid: string }
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number }
  readonly fieldConfig?: { readonly defaults: { readonly unit?: string; readonly noValue?: string } }
  readonly targets?: readonly { readonly expr: string }[]
}

export const rulesFile: string = fileURLToPath(new URL('millrace-alerts.yaml', folder))
export const dashboard: Dashboard = JSON.parse(await readFile(new URL('millrace-grafana.json', folder), 'utf8'))
/** Without the rows. */
export const panels: readonly Panel[] = dashboard.panels.filter(({ type }) => type !== 'row')

/** The first expression of a panel, or another of its expressions, as Grafana fills it in for all jobs and models. */
export function askedBy(title: string, { index = 0, range = '1h', rateInterval = '30s' } = {}): string {
  const expr = panels.find((panel) => panel.title === title)?.targets?.[index]?.expr
  if (expr === undefined) throw new Error(`no such panel: ${title}`)
  return filled(expr, range, rateInterval)
}

/** As Grafana fills them in. */
export function filled(expr: string, range = '1h', rateInterval = '30s'): string {
  return expr
    .replaceAll('$__rate_interval', rateInterval)
    .replaceAll('$__range', range)
    .replaceAll(/\$(?:job|model)\b/g, '.*')
}
