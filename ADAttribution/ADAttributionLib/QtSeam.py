"""The few things that need a running Slicer: timer, clipboard, settings, dialogs, pip. The only file that imports qt.

Everything here exists in Slicer 5.8 and 5.12 alike.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import qt
import slicer
import vtk

from ADAttributionLib.Signals import connect, connected
from ADAttributionLib.ViewPictures import SCALE, freePath, pictureOfWindow, writePng, writeSlicePictures

_SETTINGS = "ADAttribution/"
_WINDOWS = []


def makeTimer(milliseconds, callback):
    """A running timer that calls back from the event loop."""
    timer = qt.QTimer()
    timer.setInterval(milliseconds)
    connected(timer.connect("timeout()", callback), "timeout()")
    timer.start()
    return timer


def makeRestTimer(milliseconds, callback):
    """A timer that calls back once, when start() has not been called again for a while."""
    timer = qt.QTimer()
    timer.setSingleShot(True)
    timer.setInterval(milliseconds)
    connected(timer.connect("timeout()", callback), "timeout()")
    return timer


def clearForm(form: qt.QFormLayout):
    """Remove all rows of a form with their widgets."""
    while form.rowCount() > 0:
        form.removeRow(0)


def addChoice(form: qt.QFormLayout, title, helpText, choices, onChosen):
    """Add a row in which the user chooses; ``choices`` are texts and values, ``onChosen`` gets the value."""
    box = qt.QComboBox()
    for text, _ in choices:
        box.addItem(text)
    connect(box, "activated(int)", lambda index: onChosen(choices[index][1]))
    _addRow(form, title, helpText, box)
    return box


def addField(form: qt.QFormLayout, title, helpText, default, onTyped):
    """Add a row in which the user types; ``onTyped`` gets the text once it is complete."""
    field = qt.QLineEdit()
    field.placeholderText = default
    connect(field, "editingFinished()", lambda: onTyped(field.text))
    _addRow(form, title, helpText, field)
    return field


def _addRow(form: qt.QFormLayout, title, helpText, editor):
    label, explanation = qt.QLabel(f"{title}:"), qt.QLabel(helpText)
    label.setBuddy(editor)
    editor.toolTip = helpText
    explanation.wordWrap = True
    form.addRow(label, editor)
    form.addRow(explanation)


def showRow(form: qt.QFormLayout, editor, shown):
    """Show or hide a row of addChoice or addField: the label, the editor, and the explanation that follows it."""
    explanation = form.itemAt(form.indexOf(editor) + 1).widget()
    for widget in (form.labelForField(editor), editor, explanation):
        widget.setVisible(shown)


def fillTable(table: qt.QTableWidget, heads, rows):
    """Show rows of cells (text, toolTip, colour) without telling of a selection."""
    table.blockSignals(True)
    table.clear()
    table.setColumnCount(len(heads))
    table.setHorizontalHeaderLabels(list(heads))
    table.verticalHeader().hide()
    table.setRowCount(len(rows))
    for number, row in enumerate(rows):
        for column, cell in enumerate(row):
            item = qt.QTableWidgetItem(cell.text)
            item.setToolTip(cell.toolTip)
            if cell.colour:
                item.setForeground(qt.QBrush(qt.QColor(cell.colour)))
            table.setItem(number, column, item)
    table.resizeColumnsToContents()
    table.blockSignals(False)


def onHeaderClicked(table: qt.QTableWidget, callback):
    """Call back with the number of a column whose head is clicked."""
    connected(table.horizontalHeader().connect("sectionClicked(int)", callback), "sectionClicked(int)")


def fillMenu(button: qt.QToolButton, choices, onToggled):
    """Give a button a menu of choices (name, text, checked); ``onToggled`` gets the name and whether it is chosen."""
    menu = qt.QMenu(button)
    for name, text, checked in choices:
        action = menu.addAction(text)
        action.setCheckable(True)
        action.setChecked(checked)
        connected(action.connect("toggled(bool)", _withName(onToggled, name)), "toggled(bool)")
    earlier = button.menu()
    button.setMenu(menu)
    if earlier is not None:
        earlier.deleteLater()


def _withName(callback, name):
    return lambda value: callback(name, value)


def copyText(text):
    """Put a text on the clipboard."""
    slicer.app.clipboard().setText(text)


def showPicture(label, png, width=400):
    """Show a PNG (bytes) in a label that scales its content; None hides the label."""
    label.visible = png is not None
    if png is None:
        label.setPixmap(qt.QPixmap())
        return
    picture = _pictureOf(png)
    label.setPixmap(picture)
    label.setFixedSize(width, round(width * picture.height() / max(picture.width(), 1)))


def showLarge(png, title):
    """Show a PNG (bytes) in a window of its own, which the next one takes over."""
    if not _WINDOWS:
        _WINDOWS.append(qt.QLabel())
    window = _WINDOWS[0]
    window.windowTitle = title
    window.setPixmap(_pictureOf(png))
    window.show()
    window.raise_()


def _pictureOf(png):
    picture = qt.QPixmap()
    with tempfile.TemporaryDirectory(prefix="ad-attribution-picture-") as folder:
        path = Path(folder) / "picture.png"
        path.write_bytes(png)
        picture.load(os.fspath(path))
    return picture


def setting(name, default=""):
    """A setting of the user's."""
    return slicer.app.userSettings().value(_SETTINGS + name, default)


def listSetting(name):
    """A setting that is a list of texts; Qt gives a list of one back as the text itself."""
    value = setting(name, "")
    return [value] if isinstance(value, str) and value else list(value or ())


def setSetting(name, value):
    """Keep a setting of the user's."""
    slicer.app.userSettings().setValue(_SETTINGS + name, value)


def chooseFolder(title):
    """Ask for a folder; "" when the user cancels."""
    return qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), title)


def chooseFile(title, filters):
    """Ask for a file to read; "" when the user cancels."""
    return qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), title, "", filters)


def chooseNewFile(title, filters):
    """Ask for a file to write (Qt asks before one is replaced); "" when the user cancels."""
    return qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), title, "", filters)


def chooseOne(title, texts):
    """Ask for one of several texts; None when the user cancels."""
    dialog, listing = qt.QDialog(slicer.util.mainWindow()), qt.QListWidget()
    dialog.windowTitle = title
    for text in texts:
        listing.addItem(text)
    listing.setCurrentRow(0)
    buttons = qt.QDialogButtonBox()
    buttons.setStandardButtons(qt.QDialogButtonBox.Ok | qt.QDialogButtonBox.Cancel)
    connect(buttons, "accepted()", dialog.accept)
    connect(buttons, "rejected()", dialog.reject)
    connect(listing, "itemDoubleClicked(QListWidgetItem*)", lambda _item: dialog.accept())
    layout = qt.QVBoxLayout(dialog)
    layout.addWidget(listing)
    layout.addWidget(buttons)
    return texts[listing.currentRow] if dialog.exec() else None


def confirm(question, details=""):
    """Ask before something is done; ``details`` is one click away."""
    return slicer.util.confirmOkCancelDisplay(question, detailedText=details)


def reportingErrors(message):
    """A context in which an error is shown to the user, with a wait cursor."""
    return slicer.util.tryWithErrorDisplay(message, waitCursor=True)


def showChart(chart):
    """Show a plot chart node in the layout; returns the plot views that there are."""
    slicer.modules.plots.logic().ShowChartInLayout(chart)
    manager = slicer.app.layoutManager()
    return [] if manager is None else [manager.plotWidget(index).plotView() for index in range(manager.plotViewCount)]


def nameLeftAxis(view, positions, names):
    """Let names stand on the left axis of a plot view instead of numbers; without names, numbers again."""
    chart = view.chart()
    axis = chart.GetAxis(vtk.vtkAxis.LEFT)
    if not names:
        axis.SetCustomTickPositions(None, None)
        return
    places, texts = vtk.vtkDoubleArray(), vtk.vtkStringArray()
    for place, text in zip(positions, names, strict=True):
        places.InsertNextValue(place)
        texts.InsertNextValue(text)
    axis.SetCustomTickPositions(places, texts)


def captureViews(scene, folder):
    """Write every slice and 3D view that is shown as PNG into a folder, at print resolution; returns the files."""
    written = writeSlicePictures(scene, folder, slicer.app.applicationLogic())
    manager = slicer.app.layoutManager()
    for index in range(0 if manager is None else manager.threeDViewCount):
        view = manager.threeDWidget(index).threeDView()
        node = view.mrmlViewNode()
        if node is not None and node.IsMappedInLayout():
            view.forceRender()
            written.append(writePng(pictureOfWindow(view.renderWindow(), SCALE), freePath(folder, f"3D {index + 1}")))
    return written


def openScreenCapture(sliceNode, start, end):
    """Open Slicer's own module for films, set to sweep a view's plane from an offset to another (mm)."""
    slicer.util.selectModule("ScreenCapture")
    widget = slicer.util.getModuleWidget("ScreenCapture")
    widget.viewNodeSelector.setCurrentNode(sliceNode)
    widget.captureAllViewsCheckBox.checked = True
    widget.animationModeWidget.setCurrentText("slice sweep")
    widget.sliceStartOffsetSliderWidget.value = start
    widget.sliceEndOffsetSliderWidget.value = end
    widget.numberOfStepsSliderWidget.value = max(round(abs(end - start)) + 1, 2)


def dicomDatabase():
    """Slicer's DICOM database; None when it was not opened in this session."""
    return getattr(slicer, "dicomDatabase", None)


def importDicom(folder):
    """Add the DICOM objects of a folder to Slicer's database, as copies."""
    from DICOMLib import DICOMUtils

    if not DICOMUtils.importDicom(os.fspath(folder), copyFiles=True):
        raise RuntimeError(f"Slicer's DICOM database did not take {folder}.")


def onQuit(callback):
    """Call back when the application ends."""
    connected(slicer.app.connect("aboutToQuit()", callback), "aboutToQuit()")


def workerInterpreter(chosen=""):
    """The Python that computes: the user's choice, else Slicer's own, else the running one."""
    if chosen:
        return chosen
    name = "PythonSlicer.exe" if sys.platform == "win32" else "PythonSlicer"
    own = Path(slicer.app.slicerHome) / "bin" / name
    if own.exists():
        return os.fspath(own)
    return shutil.which("PythonSlicer") or sys.executable or "python3"


def pipInstall(arguments):
    """Install with Slicer's pip: from 5.12 on with a window that shows what pip says, before with a wait cursor."""
    try:
        from slicer.packaging import pip_install
    except ImportError:  # before 5.12
        slicer.util.pip_install(list(arguments))
    else:
        pip_install(list(arguments), requester="AD Attribution")


def installTorch():
    """Install torch through the PyTorch extension, which chooses the build for this computer."""
    try:
        from PyTorchUtils import PyTorchUtilsLogic
    except ImportError as cause:
        raise RuntimeError(
            "torch is missing, and so is the PyTorch extension that installs it. Open the Extensions Manager, install "
            "PyTorch, restart Slicer; or give a folder with wheels."
        ) from cause
    if PyTorchUtilsLogic().installTorch(askConfirmation=True) is None:
        raise RuntimeError("torch was not installed, because the question was answered with no.")
