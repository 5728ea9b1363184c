/** What a PromQL expression names. */
export interface Named {
  readonly metrics: readonly string[]
  /** With the metric they select from; `undefined` for those that are grouped by. */
  readonly labels: readonly (readonly [metric: string | undefined, label: string])[]
}

const grouping = /\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)/g
const selector = /\b([a-z_:][\w:]*)\s*\{([^}]*)\}/gi

/** Not a parser: it knows as much of the grammar as the dashboard and the alerts use. */
export function namesIn(promql: string): Named {
  const plain = promql.replaceAll(/"(?:[^"\\]|\\.)*"/g, '""')
  const labels: [string | undefined, string][] = []
  for (const [, list = ''] of plain.matchAll(grouping)) {
    for (const label of list.split(',')) if (label.trim() !== '') labels.push([undefined, label.trim()])
  }
  for (const [, metric, list = ''] of plain.matchAll(selector)) {
    for (const [, label = ''] of list.matchAll(/([a-z_]\w*)\s*(?:=~|!~|!=|=)/gi)) labels.push([metric, label])
  }
  const rest = plain.replaceAll(grouping, ' ').replaceAll(selector, ' $1 ')
  const metrics = Array.from(rest.matchAll(/\b(?:gen_ai_|millrace_|up\b)\w*/g), ([name]) => name)
  return { metrics: Array.from(new Set(metrics)), labels }
}
