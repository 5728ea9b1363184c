// What a list of numbers comes to, and how it is printed.

/** Between the two nearest values where it falls between them; NaN of no values. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b)
  const at = (sorted.length - 1) * share
  const [low = Number.NaN, high = Number.NaN] = [sorted[Math.floor(at)], sorted[Math.ceil(at)]]
  return low + (high - low) * (at - Math.floor(at))
}

export const median = (values: readonly number[]): number => quantile(values, 0.5)

/** The median between its quartiles, ready to print. */
export const quartiles = (values: readonly number[], digits: number): readonly string[] =>
  [0.25, 0.5, 0.75].map((share) => quantile(values, share).toFixed(digits))

/** A Markdown table, ready for `docs/benchmarks.md`. */
export function printTable(head: readonly string[], rows: readonly (readonly string[])[]): void {
  console.log(`| ${head.join(' | ')} |\n|${head.map((_, column) => (column === 0 ? '---' : '---:')).join('|')}|`)
  for (const row of rows) console.log(`| ${row.join(' | ')} |`)
}
