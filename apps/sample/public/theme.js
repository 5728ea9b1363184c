const kept = 'millrace-theme'
const themes = /** @type {const} */ (['auto', 'light', 'dark'])

/**
 * A button that goes through auto (what the system has), light and dark.
 *
 * @param {HTMLButtonElement} button
 * @param {() => void} onChange
 */
export function createTheme(button, onChange) {
  let place = Math.max(
    0,
    themes.findIndex((theme) => theme === localStorage.getItem(kept))
  )

  function show() {
    const theme = themes[place] ?? 'auto'
    document.documentElement.dataset.theme = theme
    button.textContent = `Theme: ${theme}`
  }

  button.addEventListener('click', () => {
    place = (place + 1) % themes.length
    localStorage.setItem(kept, themes[place] ?? 'auto')
    show()
    onChange()
  })
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', onChange)
  show()
}
